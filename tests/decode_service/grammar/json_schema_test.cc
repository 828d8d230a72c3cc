#include "decode_service/grammar/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/decode_service/grammar/checked_schema.h"

namespace kvship {
namespace {

using ::testing::StartsWith;

struct Row {
  std::string schema;
  std::string becomes;  // or its message begins so
};

TEST(JsonSchemaTest, WhatIsNoSchemaIsRefused) {
  const Row rows[] = {
      {"", " is no JSON object; wanted one"},
      {"true", " is no JSON object; wanted one"},
      {"[]", " is no JSON object; wanted one"},
      {R"({"type": "string")", " is no JSON object; wanted one"},
      {R"({"type": "string"}})", " is no JSON object; wanted one"},
      {"{'type': 'string'}", " is no JSON object; wanted one"},
      {"{\"const\": \"\xff\"}", " is no JSON object; wanted one"},
      {"{\"const\": \"\xed\xa0\x80\"}", " is no JSON object; wanted one"},
      {R"({"const": "\ud800"})", " is no JSON object; wanted one"},
      {std::string("{\"const\": \"\0\"}", 14), " is no JSON object; wanted one"},
      {std::string("{}\0\"", 4), " is no JSON object; wanted one"},
      {R"({"const": NaN})", " is no JSON object; wanted one"},
      {R"({"const": 1e999})", " is no JSON object; wanted one"},
      {R"({"anyOf": [false]})", ".anyOf[0] is false; wanted a schema, which is an object or true"},
      {R"({"items": 5})", ".items is 5; wanted a schema, which is an object or true"},
      {R"({"items": [{}]})", ".items is [{}]; wanted a schema"},
      {R"({"prefixItems": [false], "type": "array"})", ".prefixItems[0] is false; wanted a schema"},
      {R"({"properties": {"a": {"properties": {"b": null}}}})",
       ".properties.a.properties.b is null; wanted a schema"},
      {R"({"type": "object", "additionalProperties": "no"})",
       R"(.additionalProperties is "no"; wanted a schema)"},
      {R"({"$defs": {"a": 1}})", ".$defs.a is 1; wanted a schema"},
      {R"({"$defs": []})", ".$defs is []; wanted an object"},
      {R"({"definitions": "a"})", R"(.definitions is "a"; wanted an object)"},
  };
  for (const Row& row : rows) EXPECT_THAT(Checked(row.schema), StartsWith(row.becomes));
}

TEST(JsonSchemaTest, ValuesOfKeywordsThatAreWrongAreRefused) {
  const Row rows[] = {
      {R"({"type": "any"})",
       R"(.type is "any"; wanted one of array, boolean, integer, null, number, object, string, )"
       "or a list of them"},
      {R"({"type": ["string", "nil"]})", R"(.type is ["string","nil"]; wanted one of)"},
      {R"({"type": ["string", "string"]})", R"(.type is ["string","string"]; wanted one of)"},
      {R"({"type": []})", ".type is []; wanted one of"},
      {R"({"type": null})", ".type is null; wanted one of"},
      {R"({"type": 5, "enum": [5]})", ".enum.type is 5; wanted one of"},
      {R"({"type": "object", "properties": [1]})", ".properties is [1]; wanted an object"},
      {R"({"properties": {"a": {}}, "required": "a"})",
       R"(.required is "a"; wanted a list of names)"},
      {R"({"properties": {"a": {}}, "required": ["a", 5]})",
       ".required is 5; wanted names that properties has"},
      {R"({"properties": {"a": {}}, "required": ["b"]})",
       R"(.required is "b"; wanted names that properties has)"},
      {R"({"type": "object", "required": ["b"]})",
       R"(.required is "b"; wanted names that properties has)"},
      {R"({"type": "array", "prefixItems": {}})", ".prefixItems is {}; wanted a list of schemas"},
      {R"({"anyOf": {}})", ".anyOf is {}; wanted a list of at least one"},
      {R"({"anyOf": []})", ".anyOf is []; wanted a list of at least one"},
      {R"({"oneOf": []})", ".oneOf is []; wanted a list of at least one"},
      {R"({"enum": []})", ".enum is []; wanted a list of at least one"},
      {R"({"enum": "a"})", R"(.enum is "a"; wanted a list of at least one)"},
      {R"({"enum": ["a", 1], "type": "string"})", ".enum is 1; wanted values of the type beside"},
      {R"({"const": 1.5, "type": ["integer", "null"]})",
       ".const is 1.5; wanted values of the type beside it"},
      {R"({"const": null, "type": "boolean"})", ".const is null; wanted values of the type"},
      {R"({"const": [], "type": "object"})", ".const is []; wanted values of the type"},
      {R"({"const": [{"a": 9223372036854775808}]})",
       R"(.const is [{"a":9223372036854775808}]; wanted integers of 64 bits)"},
  };
  for (const Row& row : rows) EXPECT_THAT(Checked(row.schema), StartsWith(row.becomes));
}

TEST(JsonSchemaTest, CountsAndBoundsThatAreWrongAreRefused) {
  const std::string wanted = "; wanted a number of at most 1e15, ";
  const std::string wanted_integer = "; wanted a number of at most 2^53 - 1, ";
  const Row rows[] = {
      {R"({"type": "string", "minLength": -1})", ".minLength is -1; wanted an integer from 0 to"},
      {R"({"type": "string", "maxLength": 1.0})", ".maxLength is 1.0; wanted an integer from 0 to"},
      {R"({"type": "string", "maxLength": 1000001})",
       ".maxLength is 1000001; wanted an integer from 0 to 1000000"},
      {R"({"type": "string", "maxLength": "1"})", R"(.maxLength is "1"; wanted an integer)"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})",
       ".minLength is 3; wanted at most maxLength, which is 2"},
      {R"({"type": "array", "minItems": null})", ".minItems is null; wanted an integer from 0"},
      {R"({"items": {}, "maxItems": 129})", ".maxItems is 129; wanted an integer from 0 to 128"},
      {R"({"items": {}, "minItems": 18446744073709551615})",
       ".minItems is 18446744073709551615; wanted an integer from 0 to 128"},
      {R"({"items": {}, "minItems": 1, "maxItems": 0})",
       ".minItems is 1; wanted at most maxItems, which is 0"},
      {R"({"type": "integer", "minimum": "5"})",
       R"(.minimum is "5")" + wanted_integer + "an integer"},
      {R"({"type": "integer", "minimum": 1.5})", ".minimum is 1.5" + wanted_integer + "an integer"},
      {R"({"type": ["integer", "number"], "maximum": 1.5})", ".maximum is 1.5" + wanted},
      {R"({"type": "integer", "exclusiveMinimum": true})",
       ".exclusiveMinimum is true" + wanted_integer},
      {R"({"type": "integer", "maximum": 9007199254740992})",
       ".maximum is 9007199254740992" + wanted_integer},
      {R"({"type": ["integer", "number"], "maximum": 1000000000000001})",
       ".maximum is 1000000000000001" + wanted},
      {R"({"type": "number", "minimum": -1.1e15})", ".minimum is -1.1e+15" + wanted},
      {R"({"type": "number", "minimum": 0.0000001})",
       ".minimum is 1e-07" + wanted + "with at most 6 decimals"},
      {R"({"type": "number", "exclusiveMaximum": 0.1234567})",
       ".exclusiveMaximum is 0.1234567" + wanted},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})",
       " allows numbers from 5 to 4; wanted at least one"},
      {R"({"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 6})",
       " allows numbers from 6 to 5; wanted at least one"},
      {R"({"items": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 0.5}})",
       ".items allows numbers from 0.5 to 0.499999; wanted at least one"},
      {R"({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.000001})",
       " allows numbers from 1e-06 to 0; wanted at least one"},
  };
  for (const Row& row : rows) EXPECT_THAT(Checked(row.schema), StartsWith(row.becomes));
}

TEST(JsonSchemaTest, KeywordsThatCannotBeHeldAreRefusedByName) {
  const std::string beside = "; wanted it left out beside ";
  const Row rows[] = {
      {R"({"type": "integer", "multipleOf": 2})",
       ".multipleOf is 2" + beside + "integer: no output can be held to it here"},
      {R"({"type": "string", "pattern": "a", "minLength": 1})",
       R"(.pattern is "a"; wanted a text, and no length or format beside it)"},
      {R"({"type": "string", "pattern": "a", "format": "date"})",
       R"(.pattern is "a"; wanted a text, and no length or format beside it)"},
      {R"({"type": "string", "pattern": "\\bA"})",
       R"(.pattern is "\\bA"; wanted it without \b at its character 0)"},
      {R"({"pattern": "a"})", R"(.pattern is "a"; wanted it left out: no output can be held)"},
      {R"({"minimum": 1})", ".minimum is 1; wanted it left out: no output"},
      {R"({"not": {}})", ".not is {}; wanted it left out: no output"},
      {R"({"type": "string", "if": {}})", ".if is {}" + beside + "string"},
      {R"({"type": "string", "nullable": true})", ".nullable is true" + beside + "string"},
      {R"({"type": "string", "maximum": 5})", ".maximum is 5" + beside + "string"},
      {R"({"type": "string", "format": 5})", ".format is 5; wanted a name, and no length"},
      {R"({"type": "string", "format": "date", "maxLength": 3})",
       R"(.format is "date"; wanted a name, and no length beside it)"},
      {R"({"properties": {"a": {}}, "additionalProperties": true})",
       ".additionalProperties is true; wanted false beside properties"},
      {R"({"properties": {"a": {}}, "additionalProperties": {"type": "null"}})",
       R"(.additionalProperties is {"type":"null"}; wanted false beside properties)"},
      {R"({"type": "array", "uniqueItems": true})", ".uniqueItems is true" + beside + "array"},
      {R"({"items": {}, "contains": {}})", ".contains is {}" + beside + "array"},
      {R"({"items": {}, "additionalItems": {}})", ".additionalItems is {}" + beside + "array"},
      {R"({"items": {}, "unevaluatedItems": {}})", ".unevaluatedItems is {}" + beside + "array"},
      {R"({"type": "object", "minProperties": 1})", ".minProperties is 1" + beside + "object"},
      {R"({"type": "object", "maxProperties": 1})", ".maxProperties is 1" + beside + "object"},
      {R"({"properties": {}, "propertyNames": {}})", ".propertyNames is {}" + beside + "object"},
      {R"({"properties": {}, "patternProperties": {}})", ".patternProperties is {}" + beside},
      {R"({"properties": {}, "dependentRequired": {}})", ".dependentRequired is {}" + beside},
      {R"({"properties": {}, "unevaluatedProperties": false})",
       ".unevaluatedProperties is false" + beside + "object"},
      {R"({"required": []})", ".required is []; wanted it left out: no output"},
      {R"({"allOf": []})", ".allOf is []; wanted it left out: no output"},
      {R"({"allOf": [{}, {}]})", ".allOf is [{},{}]; wanted it left out: no output"},
      {R"({"allOf": [{"x-a": 1}]})", ".allOf[0].x-a is 1; wanted it left out"},
      {R"({"allOf": [{}], "type": "object"})", ".allOf is [{}]" + beside + "object"},
      {R"({"anyOf": [{}], "type": "string"})", R"(.type is "string")" + beside + "anyOf"},
      {R"({"oneOf": [{}], "anyOf": [{}]})", ".oneOf is [{}]" + beside + "anyOf"},
      {R"({"enum": ["a"], "maxLength": 1})", ".maxLength is 1" + beside + "enum"},
      {R"({"const": 1, "enum": [1]})", ".enum is [1]" + beside + "const"},
      {R"({"$defs": {"a": {}}, "$ref": "#/$defs/a", "minimum": 5})",
       ".minimum is 5" + beside + "$ref"},
      {R"({"items": {"$id": "a"}})", R"(.items.$id is "a"; wanted it left out)"},
      {R"({"items": {"$defs": {}}})", ".items.$defs is {}; wanted it left out"},
      {R"({"properties": {"a": {"type": "object", "properties": {"b": {"$anchor": "c"}}}}})",
       R"(.properties.a.properties.b.$anchor is "c"; wanted it left out)"},
      {R"({"type": "object", "additionalProperties": {"x": 1}})", ".additionalProperties.x is 1;"},
      {R"({"definitions": {"a": {"x": 1}}})", ".definitions.a.x is 1; wanted it left out"},
      {R"({"oneOf": [{"type": "null"}, {"x": 1}]})", ".oneOf[1].x is 1; wanted it left out"},
      {R"({"type": "array", "prefixItems": [{}, {"x": 1}]})", ".prefixItems[1].x is 1; wanted it"},
  };
  for (const Row& row : rows) EXPECT_THAT(Checked(row.schema), StartsWith(row.becomes));
}

TEST(JsonSchemaTest, LongValuesAreShownInPart) {
  const std::string text(100, 'x');
  EXPECT_EQ(Checked(absl::StrCat(R"({"pattern": ")", text, "\"}")),
            absl::StrCat(R"(.pattern is ")", text.substr(0, 79),
                         "...; wanted it left out: no output can be held to it here"));
}

TEST(JsonSchemaTest, ReferencesAreToDefinitionsOfTheSchema) {
  const std::string defs =
      R"(, "$defs": {"a": {}, "b c": {}, "d/e~": {}, "5%": {}, "f%20g": {}, "": {}},)"
      R"( "definitions": {"a": {"$ref": "#"}, "é": {}, "x": {"properties": {"b": {}}}}})";
  for (const char* good : {"#", "#/$defs/a", "#/$defs/b c", "#/$defs/b%20c", "#/$defs/d~1e~0",
                           "#/$defs/5%", "#/$defs/5%25", "#/$defs/f%2520g", "#/$defs/",
                           "#/definitions/a", "#/definitions/é", "#/definitions/%c3%A9"}) {
    const std::string schema = absl::StrCat(R"({"$ref": ")", good, "\"", defs);
    EXPECT_TRUE(CheckedJsonSchema(schema).ok()) << Checked(schema);
  }
  for (const char* wrong :
       {"", "a", "#a", "#/", "#/$defs", "#/$defs/z", "#/$defs/a/", "#/$defs/d/e~", "#/$defs/d~1e",
        "#/$defs/f%20g", "#/definitions/b c", "#/definitions/x/properties/b", "#/properties/a",
        "https://example.com/schema", "other.json#/$defs/a", "#/$defs/a%"}) {
    EXPECT_EQ(
        Checked(absl::StrCat(R"({"$ref": ")", wrong, "\"", defs)),
        absl::StrCat(R"(.$ref is ")", wrong, R"("; wanted # or one of the schema's own $defs)"));
  }
  EXPECT_THAT(Checked(R"({"$ref": 5})"), StartsWith(".$ref is 5; wanted # or one of"));
  EXPECT_THAT(Checked(R"({"$defs": {"a/b": {}}, "items": {"$ref": "#/$defs/a/b"}})"),
              StartsWith(R"(.items.$ref is "#/$defs/a/b"; wanted # or one of)"));
}

TEST(JsonSchemaTest, SchemasAreWrittenAsXgrammarWantsThem) {
  const Row rows[] = {
      {"{}", "{}"},
      {R"({"$schema": "x", "$id": 5, "title": [], "description": {}, "default": 1, "examples": 2,
           "example": 3, "deprecated": 4, "readOnly": 5, "writeOnly": 6, "$comment": 7,
           "contentEncoding": 8, "contentMediaType": 9, "type": "null"})",
       R"({"type":"null"})"},
      {R"({"type": "object"})", R"({"type":"object","additionalProperties":true})"},
      {R"({"type": "object", "properties": {}})",
       R"({"type":"object","properties":{},"additionalProperties":true})"},
      {R"({"type": "object", "properties": {"b": true, "a": {"title": "A"}}, "required": ["a"]})",
       R"({"type":"object","properties":{"b":{},"a":{}},"required":["a"],"additionalProperties":false})"},
      {R"({"properties": {"title": {"type": "string"}}})",
       R"({"properties":{"title":{"type":"string"}},"type":"object","additionalProperties":false})"},
      {R"({"type": "object", "propertyNames": {"type": "string"}})",
       R"({"type":"object","additionalProperties":true})"},
      {R"({"type": "object", "additionalProperties": {"title": "x", "type": "null"}})",
       R"({"type":"object","additionalProperties":{"type":"null"}})"},
      {R"({"type": "array"})", R"({"type":"array","items":{}})"},
      {R"({"items": true, "minItems": 1})", R"({"items":{},"minItems":1,"type":"array"})"},
      {R"({"type": "array", "items": false})", R"({"type":"array","items":false})"},
      {R"({"type": "array", "prefixItems": [true, {"type": "null"}], "items": false})",
       R"({"type":"array","prefixItems":[{},{"type":"null"}],"items":false})"},
      {R"({"type": "string", "format": "date"})", R"({"type":"string","format":"date"})"},
      {R"({"type": "string", "format": "email"})", R"({"type":"string"})"},
      {R"({"type": "number", "format": "float"})", R"({"type":"number"})"},
      {R"({"type": ["string", "integer"], "minimum": 1, "maxLength": 2})",
       R"({"type":["string","integer"],"minimum":1,"maxLength":2})"},
      {R"({"enum": ["a", 1, null], "type": ["string", "number", "null"]})",
       R"({"enum":["a",1,null]})"},
      {R"({"const": {"b": 1, "a": [-9223372036854775808, 0.5]}, "type": "object"})",
       R"({"const":{"b":1,"a":[-9223372036854775808,0.5]}})"},
      {R"({"allOf": [{"$ref": "#/$defs/a"}], "description": "d", "$defs": {"a": {"title": "t"}}})",
       R"({"$ref":"#/$defs/a","$defs":{"a":{}}})"},
      {R"({"allOf": [{"allOf": [true]}]})", "{}"},
      {R"({"oneOf": [{"const": 1}, {"const": 2}], "discriminator": {"propertyName": "x"}})",
       R"({"anyOf":[{"const":1},{"const":2}]})"},
      {R"({"anyOf": [{"const": "é\u00e9\n\""}]})", R"({"anyOf":[{"const":"éé\n\""}]})"},
  };
  for (const Row& row : rows) EXPECT_EQ(Checked(row.schema), row.becomes);
}

TEST(JsonSchemaTest, WhatIsLetThroughIsLetThroughUnchanged) {
  for (const char* schema :
       {kAnyJsonObject, R"({"type": "array", "prefixItems": [true]})",
        R"({"allOf": [{"properties": {"a": {"format": "x", "type": "string"}}}]})",
        R"({"definitions": {"b": {"items": true}}, "$ref": "#/$defs/a", "$defs": {"a": true}})",
        R"({"enum": [1e18, 0.1, "\u0001\ud83d\ude00"], "type": ["number", "string"]})",
        R"({"type": "number", "minimum": -1.5, "exclusiveMaximum": 1e15})"}) {
    const auto once = CheckedJsonSchema(schema);
    ASSERT_TRUE(once.ok()) << once.status();
    EXPECT_EQ(Checked(*once), *once);
  }
}

TEST(JsonSchemaTest, BoundsOfManyDigitsAreTaken) {
  for (const char* bound : {"123456789012345", "41546379.06", "632047850.27225", "-0.000001",
                            "1e15", "-1000000000000000", "28197438.5958", "0.1"}) {
    EXPECT_TRUE(
        CheckedJsonSchema(absl::StrCat(R"({"type": "number", "minimum": )", bound, "}")).ok())
        << bound;
  }
}

}  // namespace
}  // namespace kvship
