#include "decode_service/grammar/xml_arguments.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "decode_service/grammar/json_schema_pattern.h"
#include "decode_service/grammar/json_schema_values.h"
#include "engine/tool_parameters.h"
#include "engine/xml_calls.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

// XGrammar's own patterns for JSON strings.
const std::map<std::string, std::string, std::less<>>& PatternsOfFormats() {
  static const std::string date = R"(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))",
                           time = R"(([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?)"
                                  R"((Z|[+-]([01]\d|2[0-3]):[0-5]\d))",
                           days = R"((\d+D|\d+M(\d+D)?|\d+Y(\d+M(\d+D)?)?))",
                           hours = R"((\d+S|\d+M(\d+S)?|\d+H(\d+M(\d+S)?)?))",
                           byte = R"((25[0-5]|2[0-4]\d|[01]?\d?\d))",
                           label = R"([a-z0-9]([a-z0-9-]*[a-z0-9])?)", hex = "[0-9a-fA-F]",
                           word = hex + "{1,4}";
  // Eight words, or fewer with :: for the rest.
  static const std::string ipv6 = [] {
    std::string pattern =
        absl::StrCat("(", word, ":){7}", word, "|:((:", word, "){1,7}|:)|(", word, ":){1,7}:");
    for (int before = 1; before < 7; ++before) {
      absl::StrAppend(&pattern, "|(", word, ":){1,", before, "}(:", word, "){1,", 7 - before, "}");
    }
    return pattern;
  }();
  static const auto& patterns = *new std::map<std::string, std::string, std::less<>>{
      {"date", date},
      {"date-time", date + "T" + time},
      {"duration", absl::StrCat("P(", days, "(T", hours, ")?|T", hours, R"(|\d+W))")},
      {"hostname", label + R"((\.)" + label + ")*"},
      {"ipv4", "(" + byte + R"(\.){3})" + byte},
      {"ipv6", ipv6},
      {"time", time},
      {"uuid", hex + "{8}-" + hex + "{4}-" + hex + "{4}-" + hex + "{4}-" + hex + "{12}"}};
  return patterns;
}

StructuralPart AnyValue() { return AnyTextPart(kXmlValueEnd); }

StructuralPart Argument(const StructuralPart& name, const StructuralPart& value) {
  return InTurn({TextPart("<parameter="), name, TextPart(">\n"), value,
                 TextPart(absl::StrCat("\n", kXmlValueEnd, "\n"))});
}

StructuralPart AnyArguments(const StructuralPart& value) {
  return Repeated(Argument(PatternPart("[A-Za-z0-9_.$-]+"), value), 0);
}

constexpr size_t kMostValues = 512;
constexpr size_t kMostArgumentBytes = 4 << 20;  // which XGrammar reads in half a second

class Writer {
 public:
  explicit Writer(const json& root) : root_(root) {}

  absl::StatusOr<StructuralPart> Write() {
    if (absl::StrContains(root_.dump(), R"("$ref":"#")")) {
      return absl::InvalidArgumentError(" refers to itself by #; wanted a name of $defs");
    }
    const json& named = ReferredSchema(root_, root_);
    if (named.value("type", json("object")) != "object" || named.contains("anyOf") ||
        named.contains("enum") || named.contains("const")) {
      return WrongSchema("", root_, "an object with properties, as arguments are for this model");
    }
    const json others = named.value("additionalProperties", json(true));
    if (others == json(true)) return AnyXmlArguments();
    if (others != json(false)) {
      ASSIGN_OR_RETURN(const StructuralPart value, Value(others, ".additionalProperties"));
      return AnyArguments(value);
    }
    std::vector<StructuralPart> arguments = {TextPart("")};  // if there are no arguments
    size_t num_bytes = 0;
    const json properties = named.value("properties", json::object());
    const json required = named.value("required", json::array());
    for (const auto& [name, schema] : properties.items()) {
      const std::string path = absl::StrCat(".properties.", name);
      if (name.empty() || name.find_first_of("<>\n") != std::string::npos) {
        return WrongSchema(path, schema, "a name, without < and >");
      }
      ASSIGN_OR_RETURN(const StructuralPart value, Value(schema, path));
      num_bytes += value.size();
      if (num_bytes > kMostArgumentBytes) {
        return WrongSchema(
            path, schema,
            absl::StrCat("arguments that take at most ", kMostArgumentBytes, " bytes, each ",
                         "with the definitions where it refers to one"));
      }
      const StructuralPart argument = Argument(TextPart(name), value);
      const bool is_needed = std::find(required.begin(), required.end(), name) != required.end();
      arguments.push_back(is_needed ? argument : Optional(argument));
    }
    return InTurn(arguments);
  }

 private:
  absl::StatusOr<StructuralPart> Value(const json& schema, const std::string& path) {
    if (num_values_left_-- == 0) {
      return WrongSchema(
          path, schema,
          absl::StrCat("at most ", kMostValues, " alternatives in all, none of which is its own"));
    }
    const JsonTypes types = JsonTypesOf(schema, root_);
    if (!types.contains("string")) return JsonPart(WithDefinitions(schema).dump());
    const json& named = ReferredSchema(schema, root_);
    if (named.contains("const")) return Values(json::array({named["const"]}), types, path);
    if (named.contains("enum")) return Values(named["enum"], types, path);
    std::vector<StructuralPart> choices;
    for (const json& choice : Choices(named)) {
      if (choice == json{{"type", "null"}}) {
        choices.push_back(TextPart("null"));
      } else if (JsonTypesOf(choice, root_) == JsonTypes{"string"}) {
        ASSIGN_OR_RETURN(choices.emplace_back(), StringValue(choice, path));
      } else {
        // A string's text could be parsed as one of these.
        return WrongSchema(path, schema,
                           "no type but null beside string, as this model writes both in bare "
                           "text");
      }
    }
    return OneOf(choices);
  }

  // Returns one schema per alternative: of anyOf, or of a list of types.
  static json Choices(const json& schema) {
    if (schema.contains("anyOf")) return schema["anyOf"];
    json choices = json::array();
    const json type = schema.value("type", json("string"));
    for (const json& name : type.is_array() ? type : json::array({type})) {
      json choice = name == "string" ? schema : json::object();
      choice["type"] = name;
      choices.push_back(std::move(choice));
    }
    return choices;
  }

  static absl::StatusOr<StructuralPart> Values(const json& values, const JsonTypes& types,
                                               const std::string& path) {
    std::vector<StructuralPart> texts;
    for (const json& value : values) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      if (absl::StrContains(text, kXmlValueEnd) || json::parse(JsonOfText(text, types)) != value) {
        return WrongSchema(path, value, "a value that is not another one in bare text");
      }
      texts.push_back(TextPart(text));
    }
    return OneOf(texts);
  }

  absl::StatusOr<StructuralPart> StringValue(const json& schema, const std::string& path) {
    const json& named = ReferredSchema(schema, root_);
    if (named.contains("enum") || named.contains("const") || named.contains("anyOf")) {
      return Value(named, path);
    }
    if (named.contains("pattern")) return PatternPart(named["pattern"].get<std::string>());
    if (named.contains("format")) {
      return PatternPart(absl::StrCat("^(", PatternsOfFormats().at(named["format"]), ")$"));
    }
    if (!named.contains("minLength") && !named.contains("maxLength")) return AnyValue();
    ASSIGN_OR_RETURN(const SchemaPattern character, ReadSchemaPattern("^[^<]$"));
    return Repeated(PatternPart(character.text), named.value("minLength", 0),
                    named.value("maxLength", -1));
  }

  json WithDefinitions(json schema) const {
    if (!absl::StrContains(schema.dump(), R"("$ref":)")) return schema;
    for (const char* name : {"$defs", "definitions"}) {
      if (root_.contains(name)) schema[name] = root_[name];
    }
    return schema;
  }

  const json& root_;
  // Alternatives are expanded, and recursive ones would never end.
  size_t num_values_left_ = kMostValues;
};

}  // namespace

StructuralPart AnyXmlArguments() { return AnyArguments(AnyValue()); }

absl::StatusOr<StructuralPart> XmlArguments(const std::string& schema) {
  const json root = json::parse(schema);
  return Writer(root).Write();
}

}  // namespace kvship
