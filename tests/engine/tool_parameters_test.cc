#include "engine/tool_parameters.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

TEST(JsonTypesOf, AreThoseOfTheValuesThatASchemaAllows) {
  const json root =
      json::parse(R"({"$defs": {"a b": {"enum": [1, 2.5]}, "self": {"$ref": "#/$defs/self"},
                                              "c": {"$ref": "#/$defs/a%20b"}}})");
  const std::pair<const char*, JsonTypes> schemas[] = {
      {R"({"type": "integer"})", {"integer"}},
      {R"({"type": ["null", "object"]})", {"null", "object"}},
      {R"({"properties": {}})", {"object"}},
      {R"({"items": true})", {"array"}},
      {R"({"const": false})", {"boolean"}},
      {R"({"enum": ["a", null]})", {"null", "string"}},
      {R"({"anyOf": [{"type": "number"}, {"oneOf": [{"const": []}, {"type": "null"}]}]})",
       {"array", "null", "number"}},
      {R"({"allOf": [{"$ref": "#/$defs/c"}]})", {"integer", "number"}},
      // Nothing that could be used.
      {"{}", {"string"}},
      {"true", {"string"}},
      {R"({"type": 5})", {"string"}},
      {R"({"type": "int"})", {"string"}},
      {R"({"$ref": "#/$defs/self"})", {"string"}},
      {R"({"$ref": "#/$defs/none"})", {"string"}},
      {R"({"$ref": "#a"})", {"string"}},
      {R"({"$ref": "https://a/b"})", {"string"}},
      {R"({"$ref": 5})", {"string"}},
      {R"({"enum": {}})", {"string"}}};
  for (const auto& [schema, types] : schemas) {
    EXPECT_EQ(JsonTypesOf(json::parse(schema), root), types) << schema;
  }
}

TEST(JsonTypesOf, LooksAtAlternativesThatReferToEachOtherOnce) {
  json root = {{"$defs", {{"a", {{"anyOf", json::array()}}}}}};
  json& alternatives = root["$defs"]["a"]["anyOf"];
  for (int i = 0; i < 100; ++i) alternatives.push_back({{"$ref", "#/$defs/a"}});
  alternatives.push_back({{"type", "null"}});
  EXPECT_EQ(JsonTypesOf(root["$defs"]["a"], root), JsonTypes{"null"});
}

TEST(JsonOfText, IsWhatTheTypesMakeOfIt) {
  const std::tuple<JsonTypes, const char*, const char*> texts[] = {
      {{"string"}, "5", R"("5")"},
      {{"string"}, " a\"\n", R"(" a\"\n")"},
      {{"string"}, "null", R"("null")"},
      {{"integer"}, " 007", R"(" 007")"},
      {{"integer"}, "12345678901234567890123", "12345678901234567890123"},
      {{"integer"}, "x", R"("x")"},
      {{"integer"}, "1.5", "1.5"},
      {{"integer"}, "\"5\"", "\"5\""},
      {{"number"}, "-1.50e2\n", "-1.50e2"},
      {{"boolean"}, "True", "true"},
      {{"boolean"}, "FALSE ", "false"},
      {{"boolean"}, "None", R"("None")"},
      {{"null", "object"}, "None", "null"},
      {{"object"}, R"({"b": 1.50, "a": "x"})", R"({"b": 1.50, "a": "x"})"},
      {{"object"}, "{'a': 1}", R"("{'a': 1}")"},
      {{"array"}, "[1, ", R"("[1, ")"},
      {{"null", "string"}, "null", "null"},
      {{"null", "string"}, "5", R"("5")"},
      {{"null", "string"}, "\"a\"", R"("\"a\"")"},
      {{"integer", "string"}, "5", "5"},
      {{"integer", "string"}, "5.5", R"("5.5")"},
      {{"integer", "string"}, "{}", R"("{}")"},
      {{"array", "string"}, "[\"a\"]", "[\"a\"]"},
      {{"array", "string"}, "", R"("")"},
      {{"array"}, "", R"("")"}};
  for (const auto& [types, text, value] : texts) EXPECT_EQ(JsonOfText(text, types), value) << text;
  EXPECT_EQ(JsonOfText(absl::string_view("1\0", 2), {"integer"}), R"("1\u0000")");
}

TEST(ToolParameters, AreThoseOfTheTools) {
  const std::vector<std::string> tools = {
      R"({"function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#/$defs/i"}},
          "$defs": {"i": {"type": "integer"}}}}})",
      R"({"function": {"name": "g"}})",
      "no JSON",
      "5",
      R"({"function": {"name": 5}})",
      R"({"function": {"name": "h", "parameters": {"properties": 5}}})"};
  const ToolParameters parameters(tools);
  EXPECT_EQ(parameters.TypesOf("f", "a"), JsonTypes{"integer"});
  for (const char* tool : {"f", "g", "h", "other"}) {
    EXPECT_EQ(parameters.TypesOf(tool, "b"), JsonTypes{"string"});
  }
}

}  // namespace
}  // namespace kvship
