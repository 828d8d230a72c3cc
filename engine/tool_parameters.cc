#include "engine/tool_parameters.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "engine/json_text.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

const JsonTypes kStringAlone = {"string"};

// The type of valid JSON.
absl::string_view TypeOfText(absl::string_view value) {
  switch (value[0]) {
    case '"': return "string";
    case '{': return "object";
    case '[': return "array";
    case 't':
    case 'f': return "boolean";
    case 'n': return "null";
    default: return value.find_first_of(".eE") == absl::string_view::npos ? "integer" : "number";
  }
}

}  // namespace

std::string JsonOfText(absl::string_view text, const JsonTypes& types) {
  if (types == kStringAlone) return JsonString(text);
  absl::string_view value = absl::StripAsciiWhitespace(text);
  if (types.contains("boolean")) {
    if (absl::EqualsIgnoreCase(value, "true")) return "true";
    if (absl::EqualsIgnoreCase(value, "false")) return "false";
  }
  if (types.contains("null") &&
      (absl::EqualsIgnoreCase(value, "null") || absl::EqualsIgnoreCase(value, "none"))) {
    return "null";
  }
  // A NUL would end it.
  const bool is_json =
      !value.empty() && !absl::StrContains(value, '\0') && json::accept(value.begin(), value.end());
  if (is_json) {
    const absl::string_view type = TypeOfText(value);
    const bool fits = types.contains(type) || (type == "integer" && types.contains("number"));
    if (fits && type != "string") return std::string(value);
  }
  return is_json && !types.contains("string") ? std::string(value) : JsonString(text);
}

ToolParameters::ToolParameters(std::span<const std::string> tools) {
  for (const std::string& text : tools) {
    const json tool = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!tool.is_object() || !tool.contains("function")) continue;
    const json& function = tool["function"];
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) {
      continue;
    }
    auto& parameters = types_[function["name"].get<std::string>()];
    if (!function.contains("parameters") || !function["parameters"].is_object()) continue;
    const json& schema = function["parameters"];
    if (!schema.contains("properties") || !schema["properties"].is_object()) continue;
    for (const auto& [name, property] : schema["properties"].items()) {
      parameters[name] = JsonTypesOf(property, schema);
    }
  }
}

const JsonTypes& ToolParameters::TypesOf(absl::string_view tool,
                                         absl::string_view parameter) const {
  const auto of_tool = types_.find(tool);
  if (of_tool == types_.end()) return kStringAlone;
  const auto found = of_tool->second.find(parameter);
  return found == of_tool->second.end() ? kStringAlone : found->second;
}

}  // namespace kvship
