#include "engine/schema_types.h"

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

// Of references, and of schemas within schemas: beyond, and in those that refer to themselves,
// nothing is looked for.
constexpr int kMostDepth = 16;

const JsonTypes kTypeNames = {"array", "boolean", "integer", "null", "number", "object", "string"};

const char* TypeOfValue(const json& value) {
  if (value.is_string()) return "string";
  if (value.is_boolean()) return "boolean";
  if (value.is_null()) return "null";
  if (value.is_number_integer()) return "integer";
  if (value.is_number()) return "number";
  return value.is_array() ? "array" : "object";
}

// Null where it is none of the root's own.
const json* Referred(const json& reference, const json& root) {
  if (!reference.is_string()) return nullptr;
  const std::string text = WithoutPercents(reference.get_ref<const std::string&>());
  absl::string_view pointer = text;
  if (!absl::ConsumePrefix(&pointer, "#")) return nullptr;
  try {
    const json::json_pointer place{std::string(pointer)};
    return root.contains(place) ? &root.at(place) : nullptr;
  } catch (const json::exception&) {  // of what is no pointer
    return nullptr;
  }
}

// `seen`: what was referred to, once each: alternatives that refer to each other are as many as
// their powers.
void AddTypes(const json& schema, const json& root, int depth, std::set<const json*>& seen,
              JsonTypes& types) {
  if (!schema.is_object() || depth > kMostDepth) return;
  const auto has_list = [&schema](const char* name) {
    return schema.contains(name) && schema[name].is_array();
  };
  if (schema.contains("$ref")) {
    const json* referred = Referred(schema["$ref"], root);
    if (referred != nullptr && seen.insert(referred).second) {
      AddTypes(*referred, root, depth + 1, seen, types);
    }
  } else if (schema.contains("const")) {
    types.insert(TypeOfValue(schema["const"]));
  } else if (has_list("enum")) {
    for (const json& value : schema["enum"]) types.insert(TypeOfValue(value));
  } else if (schema.contains("type")) {
    const json& type = schema["type"];
    for (const json& name : type.is_array() ? type : json::array({type})) {
      if (name.is_string() && kTypeNames.contains(name.get_ref<const std::string&>())) {
        types.insert(name.get<std::string>());
      }
    }
  } else if (schema.contains("properties")) {
    types.insert("object");
  } else if (schema.contains("items")) {
    types.insert("array");
  } else {
    for (const char* name : {"anyOf", "oneOf", "allOf"}) {
      if (!has_list(name)) continue;
      for (const json& each : schema[name]) AddTypes(each, root, depth + 1, seen, types);
    }
  }
}

}  // namespace

std::string WithoutPercents(absl::string_view reference) {
  std::string text;
  while (!reference.empty()) {
    const absl::string_view code = reference.substr(1, 2);
    if (reference[0] == '%' && code.size() == 2 && absl::ascii_isxdigit(code[0]) &&
        absl::ascii_isxdigit(code[1])) {
      absl::StrAppend(&text, absl::HexStringToBytes(code));
      reference.remove_prefix(3);
    } else {
      text.push_back(reference[0]);
      reference.remove_prefix(1);
    }
  }
  return text;
}

JsonTypes JsonTypesOf(const json& schema, const json& root) {
  JsonTypes types;
  std::set<const json*> seen;
  AddTypes(schema, root, 0, seen, types);
  return types.empty() ? JsonTypes{"string"} : types;
}

const json& ReferredSchema(const json& schema, const json& root) {
  const json* referred = &schema;
  for (int depth = 0; referred->contains("$ref") && depth <= kMostDepth; ++depth) {
    const json* next = Referred((*referred)["$ref"], root);
    if (next == nullptr) break;
    referred = next;
  }
  return *referred;
}

}  // namespace kvship
