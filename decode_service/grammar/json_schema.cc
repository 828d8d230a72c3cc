#include "decode_service/grammar/json_schema.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "decode_service/grammar/json_schema_one_of.h"
#include "decode_service/grammar/json_schema_pattern.h"
#include "decode_service/grammar/json_schema_values.h"
#include "engine/json_text.h"
#include "engine/schema_types.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;
constexpr size_t kMostBytes = 64 << 10;
constexpr int64_t kMostItems = 128;  // above, XGrammar uses counters, which are slow per token
constexpr int64_t kMostCharacters = 1'000'000;
// Names that begin alike take XGrammar as long as they are many times as long as each is.
constexpr size_t kMostNameBytes = 128;

// These do not constrain an output.
const SchemaNames kAnnotations = {"$comment", "$schema",    "contentEncoding", "contentMediaType",
                                  "default",  "deprecated", "description",     "example",
                                  "examples", "readOnly",   "title",           "writeOnly"};
// Other formats are annotations too, unless a validator chooses to assert them.
const std::map<std::string, CompileWork, std::less<>> kFormats = {
    {"date", {30, 6, 500}},       {"date-time", {40, 12, 500}}, {"duration", {50, 36, 1500}},
    {"hostname", {10, 6, 12000}}, {"ipv4", {30, 20, 500}},      {"ipv6", {64, 101, 5000}},
    {"time", {30, 10, 500}},      {"uuid", {12, 4, 200}}};

// Parts of schemas, as measured; the largest of their kind, such as bounds of 15 digits.
constexpr CompileWork kOfSchema = {2, 1}, kOfArray = {4, 3}, kOfAdditional = {12, 6},
                      kOfLength = {4, 3}, kOfInteger = {45, 4, 1000}, kOfNumber = {120, 8, 1000},
                      kOfReference = {1, 3}, kOfPattern = {0, 4};

// Other keywords of a schema: one of kChoices, with the keywords allowed beside it, or a type.
const std::map<std::string, SchemaNames, std::less<>> kChoices = {{"$ref", {}},
                                                                  {"anyOf", {}},
                                                                  {"const", {"type"}},
                                                                  {"enum", {"type"}},
                                                                  {"oneOf", {"discriminator"}}};

absl::Status CheckQuota(const SchemaQuota& quota) {
  if (quota.used <= quota.most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(" has ", quota.used, " or more ", quota.of, "; wanted at most ", quota.most));
}

absl::Status Take(size_t count, SchemaQuota& quota) {
  quota.used += count;
  return CheckQuota(quota);
}

// The number of alternatives that may overlap, as all but null may, after the first, which is free.
size_t NumFurther(const json& alternatives) {
  const auto may_be_alike = [](const json& each) { return each != json{{"type", "null"}}; };
  const size_t count = std::count_if(alternatives.begin(), alternatives.end(), may_be_alike);
  return std::max<size_t>(count, 1) - 1;
}

class Checker {
 public:
  // `root`: the unmodified schema whose definitions may be referenced.
  Checker(const json& root, SchemaQuotas& quotas, absl::string_view not_in_patterns)
      : root_(root), quotas_(quotas), not_in_patterns_(not_in_patterns) {
    for (const char* name : {"$defs", "definitions"}) {
      if (!root.contains(name) || !root[name].is_object()) continue;
      for (const auto& each : root[name].items()) {
        const auto escaped = absl::StrReplaceAll(each.key(), {{"~", "~0"}, {"/", "~1"}});
        references_.insert(absl::StrCat("#/", name, "/", escaped));
      }
    }
  }

  // Checks a schema and rewrites it in the form that XGrammar expects.
  absl::Status Read(json& schema, const std::string& path) {
    RETURN_IF_ERROR(Spend(kOfSchema));
    if (schema == json(true)) schema = json::object();
    if (!schema.is_object())
      return WrongSchema(path, schema, "a schema, which is an object or true");
    for (const std::string& name : kAnnotations) schema.erase(name);
    // As every name is; Zod says so of each record.
    if (schema.value("propertyNames", json()) == json{{"type", "string"}}) {
      schema.erase("propertyNames");
    }
    // Some generators wrap a reference like this, to annotate it.
    if (schema.size() == 1 && schema.contains("allOf") && schema["allOf"].is_array() &&
        schema["allOf"].size() == 1) {
      schema = json(schema["allOf"][0]);
      return Read(schema, path + ".allOf[0]");
    }
    for (const auto& [choice, beside] : kChoices) {
      if (!schema.contains(choice)) continue;
      for (const auto& each : schema.items()) {
        if (each.key() != choice && !beside.contains(each.key())) {
          return CannotHold(path, each.key(), each.value(), choice);
        }
      }
      return ReadChoice(choice, schema, path);
    }
    return ReadTyped(schema, path);
  }

 private:
  absl::Status Spend(const CompileWork& more) {
    quotas_.work += more;
    quotas_.microseconds.used = quotas_.work.TotalMicroseconds();
    return CheckQuota(quotas_.microseconds);
  }

  static absl::Status CannotHold(const std::string& path, const std::string& name,
                                 const json& value, absl::string_view beside) {
    return WrongSchema(absl::StrCat(path, ".", name), value,
                       absl::StrCat("it left out", beside.empty() ? "" : " beside ", beside,
                                    ": no output can be held to it here"));
  }

  absl::Status ReadChoice(const std::string& choice, json& schema, const std::string& path) {
    schema.erase("discriminator");
    const json& value = schema[choice];
    const std::string its_path = absl::StrCat(path, ".", choice);
    if (choice == "$ref") {
      RETURN_IF_ERROR(Take(1, quotas_.references));
      RETURN_IF_ERROR(Spend(kOfReference));
      if (value == "#" ||
          (value.is_string() && references_.contains(WithoutPercents(value.get<std::string>())))) {
        return absl::OkStatus();
      }
      return WrongSchema(its_path, value, "# or one of the schema's own $defs");
    }
    if (choice == "const") return CheckValues(json::array({value}), schema, its_path);
    if (!value.is_array() || value.empty())
      return WrongSchema(its_path, value, "a list of at least one");
    if (choice == "enum") return CheckValues(value, schema, its_path);
    RETURN_IF_ERROR(Take(NumFurther(value), quotas_.alternatives));
    const json as_it_came = choice == "oneOf" ? value : json();
    for (size_t i = 0; i < value.size(); ++i) {
      RETURN_IF_ERROR(Read(schema[choice][i], absl::StrCat(its_path, "[", i, "]")));
    }
    if (choice == "anyOf") return absl::OkStatus();
    if (!AreDisjointSchemas(value, as_it_came, root_)) {
      return WrongSchema(its_path, as_it_came,
                         "schemas of which no two can fit: of other types, or objects that all "
                         "require a property with other values (const or enum)");
    }
    schema = {{"anyOf", json(value)}};
    return absl::OkStatus();
  }

  absl::Status CheckValues(const json& values, json& schema, const std::string& path) {
    RETURN_IF_ERROR(Take(values.size(), quotas_.values));
    const size_t num_bytes = values.dump().size();
    RETURN_IF_ERROR(Take(num_bytes, quotas_.value_bytes));
    RETURN_IF_ERROR(Spend({.states = num_bytes}));
    ASSIGN_OR_RETURN(const SchemaNames types, SchemaTypes(schema, path));
    for (const json& value : values) {
      if (!IsExactInSchema(value)) return WrongSchema(path, value, "integers of 64 bits");
      if (types.empty() || std::any_of(types.begin(), types.end(), [&value](const auto& type) {
            return IsOfSchemaType(value, type);
          })) {
        continue;
      }
      return WrongSchema(path, value, "values of the type beside it");
    }
    schema.erase("type");
    return absl::OkStatus();
  }

  absl::Status ReadTyped(json& schema, const std::string& path) {
    // The keyword implies the type.
    if (!schema.contains("type") && schema.contains("properties")) schema["type"] = "object";
    if (!schema.contains("type") && schema.contains("items")) schema["type"] = "array";
    ASSIGN_OR_RETURN(const SchemaNames types, SchemaTypes(schema, path));
    // Formats not in kFormats, or of non-strings, need not be enforced.
    if (schema.contains("format") && schema["format"].is_string() &&
        !(types.contains("string") && kFormats.contains(schema["format"].get<std::string>()))) {
      schema.erase("format");
    }
    for (const auto& each : schema.items()) {
      const bool goes_with_type =
          each.key() == "type" ||
          std::any_of(types.begin(), types.end(), [&each](const auto& type) {
            return KeywordsOfTypes().find(type)->second.contains(each.key());
          });
      if (goes_with_type) continue;
      return CannotHold(path, each.key(), each.value(),
                        types.empty() ? "" : absl::StrJoin(types, ", "));
    }
    if (types.contains("array")) RETURN_IF_ERROR(ReadArray(schema, path));
    if (types.contains("object")) RETURN_IF_ERROR(ReadObject(schema, path));
    if (types.contains("string")) RETURN_IF_ERROR(ReadString(schema, path));
    if (HasSchemaBounds(schema)) {
      RETURN_IF_ERROR(Take(1, quotas_.bounded));
      if (types.contains("integer")) RETURN_IF_ERROR(Spend(kOfInteger));
      if (types.contains("number")) RETURN_IF_ERROR(Spend(kOfNumber));
    }
    return CheckSchemaBounds(schema, types, path);
  }

  absl::Status ReadString(json& schema, const std::string& path) {
    RETURN_IF_ERROR(CheckSchemaCounts(schema, "minLength", "maxLength", kMostCharacters, path));
    const bool has_length = schema.contains("minLength") || schema.contains("maxLength");
    if (schema.contains("format") && (has_length || !schema["format"].is_string())) {
      return WrongSchema(path + ".format", schema["format"], "a name, and no length beside it");
    }
    if (has_length) RETURN_IF_ERROR(Spend(kOfLength));
    if (schema.contains("format")) {
      RETURN_IF_ERROR(Take(1, quotas_.formats));
      RETURN_IF_ERROR(Spend(kFormats.at(schema["format"].get<std::string>())));
    }
    if (!schema.contains("pattern")) return absl::OkStatus();
    const json& value = schema["pattern"];
    if (!value.is_string() || has_length || schema.contains("format")) {
      return WrongSchema(path + ".pattern", value, "a text, and no length or format beside it");
    }
    const auto pattern = ReadSchemaPattern(value.get<std::string>(), not_in_patterns_);
    if (!pattern.ok()) return WrongSchema(path + ".pattern", value, pattern.status().message());
    schema["pattern"] = pattern->text;
    RETURN_IF_ERROR(Take(pattern->cost.steps, quotas_.patterns));
    RETURN_IF_ERROR(Spend(kOfPattern));
    return Spend(
        {.states = 3 * pattern->cost.steps, .microseconds = pattern->cost.compile_microseconds});
  }

  absl::Status ReadArray(json& schema, const std::string& path) {
    RETURN_IF_ERROR(CheckSchemaCounts(schema, "minItems", "maxItems", kMostItems, path));
    RETURN_IF_ERROR(Spend(kOfArray));
    const auto least = schema.value("minItems", size_t{0});
    RETURN_IF_ERROR(Spend({.rules = schema.value("maxItems", least) - least}));
    if (!schema.contains("items")) schema["items"] = true;
    if (schema["items"] != json(false)) RETURN_IF_ERROR(Read(schema["items"], path + ".items"));
    if (!schema.contains("prefixItems")) return absl::OkStatus();
    json& first = schema["prefixItems"];
    if (!first.is_array()) return WrongSchema(path + ".prefixItems", first, "a list of schemas");
    RETURN_IF_ERROR(Take(first.size(), quotas_.properties));
    for (size_t i = 0; i < first.size(); ++i) {
      RETURN_IF_ERROR(Read(first[i], absl::StrCat(path, ".prefixItems[", i, "]")));
    }
    return absl::OkStatus();
  }

  absl::Status ReadObject(json& schema, const std::string& path) {
    json properties = schema.value("properties", json::object());
    if (!properties.is_object()) return WrongSchema(path + ".properties", properties, "an object");
    RETURN_IF_ERROR(Take(properties.size(), quotas_.properties));
    for (auto& [name, property] : properties.items()) {
      if (name.size() > kMostNameBytes) {
        return WrongSchema(path + ".properties", name,
                           absl::StrCat("names of at most ", kMostNameBytes, " bytes"));
      }
      // Twice where it may be left out, as the next ones begin alike.
      RETURN_IF_ERROR(Spend({.states = 2 * name.size()}));
      RETURN_IF_ERROR(Read(property, absl::StrCat(path, ".properties.", name)));
    }
    if (schema.contains("required")) {
      const json& required = schema["required"];
      if (!required.is_array()) return WrongSchema(path + ".required", required, "a list of names");
      for (const json& name : required) {
        if (name.is_string() && properties.contains(name.get<std::string>())) continue;
        return WrongSchema(path + ".required", name, "names that properties has");
      }
    }
    // With neither, only {} would be allowed.
    if (!schema.contains("additionalProperties")) {
      schema["additionalProperties"] = properties.empty();
    }
    if (schema.contains("properties")) schema["properties"] = properties;
    json& others = schema["additionalProperties"];
    if (others == json(false)) return absl::OkStatus();
    // A property's name written with escapes would match as an additional property.
    if (!properties.empty()) {
      return WrongSchema(path + ".additionalProperties", others, "false beside properties");
    }
    RETURN_IF_ERROR(Spend(kOfAdditional));
    if (others == json(true)) return absl::OkStatus();
    return Read(others, path + ".additionalProperties");
  }

  const json root_;
  SchemaNames references_;
  SchemaQuotas& quotas_;
  const absl::string_view not_in_patterns_;
};

}  // namespace

absl::StatusOr<std::string> CheckedJsonSchema(absl::string_view text, SchemaQuotas& quotas,
                                              absl::string_view not_in_patterns) {
  if (text.size() > kMostBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(" has ", text.size(), " bytes; wanted at most ", kMostBytes));
  }
  const auto spelled = PythonJson(text);
  if (!spelled.ok())
    return absl::InvalidArgumentError(absl::StrCat(" ", spelled.status().message()));
  json root = json::parse(*spelled);
  root.erase("$id");
  Checker checker(root, quotas, not_in_patterns);
  json definitions = json::object();
  for (const char* name : {"$defs", "definitions"}) {
    if (!root.contains(name)) continue;
    if (!root[name].is_object())
      return WrongSchema(absl::StrCat(".", name), root[name], "an object");
    definitions[name] = std::move(root[name]);
    root.erase(name);
    for (auto& [each, schema] : definitions[name].items()) {
      RETURN_IF_ERROR(checker.Read(schema, absl::StrCat(".", name, ".", each)));
    }
  }
  RETURN_IF_ERROR(checker.Read(root, ""));
  root.update(definitions);
  return root.dump();
}

}  // namespace kvship
