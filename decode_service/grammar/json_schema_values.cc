#include "decode_service/grammar/json_schema_values.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/json_text.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

// Bounds in magnitude. Of integers JavaScript's safe ones, which schemas made there name.
constexpr double kMostInteger = 9007199254740991;  // 2^53 - 1
constexpr double kMostNumber = 1e15;
constexpr double kFractions = 1e6;  // per unit: precision of numbers between bounds

const SchemaNames kOfNumbers = {"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"};

}  // namespace

const std::map<std::string, SchemaNames, std::less<>>& KeywordsOfTypes() {
  static const auto& keywords = *new std::map<std::string, SchemaNames, std::less<>>{
      {"array", {"items", "maxItems", "minItems", "prefixItems"}},
      {"boolean", {}},
      {"integer", kOfNumbers},
      {"null", {}},
      {"number", kOfNumbers},
      {"object", {"additionalProperties", "properties", "required"}},
      {"string", {"format", "maxLength", "minLength", "pattern"}}};
  return keywords;
}

absl::Status WrongSchema(absl::string_view path, const json& is, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(path, " is ", ShortJson(is), "; wanted ", wanted));
}

bool IsOfSchemaType(const json& value, absl::string_view type) {
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  return type == "array" ? value.is_array() : value.is_object();
}

absl::StatusOr<SchemaNames> SchemaTypes(const json& schema, const std::string& path) {
  if (!schema.contains("type")) return SchemaNames();
  const json& type = schema["type"];
  const json list = type.is_array() ? type : json::array({type});
  SchemaNames types;
  for (const json& name : list) {
    if (name.is_string() && KeywordsOfTypes().contains(name.get<std::string>())) {
      types.insert(name.get<std::string>());
    }
  }
  if (!types.empty() && types.size() == list.size()) return types;
  return WrongSchema(path + ".type", type,
                     absl::StrCat("one of ",
                                  absl::StrJoin(KeywordsOfTypes(), ", ",
                                                [](std::string* out, const auto& each) {
                                                  out->append(each.first);
                                                }),
                                  ", or a list of them"));
}

bool IsExactInSchema(const json& value) {
  if (value.is_structured()) return std::all_of(value.begin(), value.end(), IsExactInSchema);
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= INT64_MAX;
  // A too large integer was parsed as a float.
  return !value.is_number_float() || std::abs(value.get<double>()) < 0x1p63;
}

absl::Status CheckSchemaCounts(const json& schema, const char* least, const char* most,
                               int64_t most_of_all, const std::string& path) {
  for (const char* name : {least, most}) {
    if (!schema.contains(name)) continue;
    const json& count = schema[name];
    if (count.is_number_unsigned() && count.get<uint64_t>() <= uint64_t(most_of_all)) continue;
    return WrongSchema(absl::StrCat(path, ".", name), count,
                       absl::StrCat("an integer from 0 to ", most_of_all));
  }
  if (schema.value(least, int64_t{0}) <= schema.value(most, most_of_all)) return absl::OkStatus();
  return WrongSchema(absl::StrCat(path, ".", least), schema[least],
                     absl::StrCat("at most ", most, ", which is ", schema[most].dump()));
}

bool HasSchemaBounds(const json& schema) {
  return std::any_of(kOfNumbers.begin(), kOfNumbers.end(),
                     [&schema](const std::string& name) { return schema.contains(name); });
}

absl::Status CheckSchemaBounds(const json& schema, const SchemaNames& types,
                               const std::string& path) {
  const double per_one = types.contains("integer") ? 1 : kFractions;
  const double unit = 1 / per_one;
  const bool is_number = types.contains("number") || !types.contains("integer");
  const double most_bound = is_number ? kMostNumber : kMostInteger;
  double least = -INFINITY, most = INFINITY;
  for (const std::string& name : kOfNumbers) {
    if (!schema.contains(name)) continue;
    const json& bound = schema[name];
    const double value = bound.is_number() ? bound.get<double>() : NAN;
    const bool is_written =
        value == std::round(value) || value == std::round(value * per_one) / per_one;
    if (!(std::abs(value) <= most_bound) || !is_written) {
      return WrongSchema(absl::StrCat(path, ".", name), bound,
                         absl::StrCat("a number of at most ", is_number ? "1e15, " : "2^53 - 1, ",
                                      unit == 1 ? "an integer" : "with at most 6 decimals"));
    }
    const double inside = absl::StartsWith(name, "exclusive") ? unit : 0;
    if (absl::EndsWithIgnoreCase(name, "minimum")) {
      least = std::max(least, value + inside);
    } else {
      most = std::min(most, value - inside);
    }
  }
  if (least <= most + unit / 1000) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, " allows numbers from ", least, " to ", most, "; wanted at least one"));
}

}  // namespace kvship
