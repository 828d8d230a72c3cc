#include "decode_service/json_schema_one_of.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "decode_service/json_schema_values.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

// The definition of this name; null: there is none that can be seen, or the name is written with
// escapes.
const json* Definition(absl::string_view reference, const json& root) {
  if (absl::StrContains(reference, '%') || absl::StrContains(reference, '~')) return nullptr;
  for (const char* name : {"$defs", "definitions"}) {
    absl::string_view its_name = reference;
    if (!absl::ConsumePrefix(&its_name, absl::StrCat("#/", name, "/"))) continue;
    const std::string key(its_name);
    if (root.contains(name) && root[name].is_object() && root[name].contains(key)) {
      return &root[name][key];
    }
  }
  return nullptr;
}

// What a reference, or one to one, names; null: that cannot be seen.
const json* Resolved(const json& schema, const json& root) {
  constexpr int kMostHops = 16;
  const json* found = &schema;
  for (int hop = 0; hop < kMostHops && found != nullptr; ++hop) {
    if (!found->is_object() || !found->contains("$ref")) return found;
    const json& reference = (*found)["$ref"];
    found = reference.is_string() ? Definition(reference.get<std::string>(), root) : nullptr;
  }
  return nullptr;
}

// The only values that fit, where they are listed.
std::optional<json> ValuesOf(const json& schema) {
  if (schema.contains("const")) return json::array({schema["const"]});
  if (schema.contains("enum") && schema["enum"].is_array()) return schema["enum"];
  return std::nullopt;
}

// In whatever order the members of objects stand.
bool HaveCommon(const json& a, const json& b) {
  const nlohmann::json values(a), others(b);
  return std::any_of(values.begin(), values.end(), [&others](const nlohmann::json& value) {
    return std::find(others.begin(), others.end(), value) != others.end();
  });
}

// The types of values that may fit; an integer is a number.
SchemaNames TypesThatFit(const json& schema) {
  SchemaNames types;
  if (const auto values = ValuesOf(schema)) {
    for (const json& value : *values) {
      for (const auto& [type, keywords] : KeywordsOfTypes()) {
        if (type != "integer" && IsOfSchemaType(value, type)) types.insert(type);
      }
    }
    return types;
  }
  const auto named = SchemaTypes(schema, "");
  if (named.ok()) types = *named;
  if (types.contains("integer")) types.insert("number");
  if (types.empty()) {
    for (const auto& [type, keywords] : KeywordsOfTypes()) types.insert(type);
  }
  types.erase("integer");
  return types;
}

bool Requires(const json& schema, const std::string& name) {
  if (!schema.contains("required") || !schema["required"].is_array()) return false;
  return HaveCommon(schema["required"], json::array({name}));
}

// Whether two schemas of objects both require a property, of which no value fits both.
bool AreToldApart(const json& a, const json& b, const json& root) {
  const json properties = a.value("properties", json::object());
  const json others = b.value("properties", json::object());
  for (const auto& each : properties.items()) {
    if (!Requires(a, each.key()) || !Requires(b, each.key()) || !others.contains(each.key())) {
      continue;
    }
    const json* its = Resolved(each.value(), root);
    const json* theirs = Resolved(others[each.key()], root);
    if (its == nullptr || theirs == nullptr) continue;
    const auto values = ValuesOf(*its), other_values = ValuesOf(*theirs);
    if (values && other_values && !HaveCommon(*values, *other_values)) return true;
  }
  return false;
}

bool AreDisjoint(const json& a, const json& b, const json& root) {
  const auto values = ValuesOf(a), other_values = ValuesOf(b);
  if (values && other_values) return !HaveCommon(*values, *other_values);
  const SchemaNames types = TypesThatFit(a), other_types = TypesThatFit(b);
  std::vector<std::string> common;
  std::set_intersection(types.begin(), types.end(), other_types.begin(), other_types.end(),
                        std::back_inserter(common));
  return common.empty() ||
         (common == std::vector<std::string>{"object"} && AreToldApart(a, b, root));
}

}  // namespace

bool AreDisjointSchemas(const json& held, const json& came, const json& root) {
  for (size_t i = 0; i < held.size(); ++i) {
    const json* one = Resolved(held[i], root);
    if (one == nullptr || !one->is_object()) return false;
    for (size_t j = 0; j < came.size(); ++j) {
      const json* other = Resolved(came[j], root);
      if (other == nullptr || !other->is_object()) return false;
      if (i != j && !AreDisjoint(*one, *other, root)) return false;
    }
  }
  return true;
}

}  // namespace kvship
