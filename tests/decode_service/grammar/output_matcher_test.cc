#include "decode_service/grammar/output_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/decode_service/grammar/structure_walk.h"

namespace kvship {
namespace {

using ::testing::StartsWith;

// Outputs that a schema allows, and some that it does not.
struct Row {
  std::string schema;
  std::vector<std::string> good, wrong;
};

void ExpectHeld(std::span<const Row> rows) {
  for (const Row& row : rows) {
    for (const std::string& text : row.good) {
      EXPECT_EQ(WalkSchema(row.schema, text), "") << row.schema << "\n" << text;
    }
    for (const std::string& text : row.wrong) {
      EXPECT_THAT(WalkSchema(row.schema, text), StartsWith("not ")) << row.schema << "\n" << text;
    }
  }
}

TEST(OutputMatcherTest, TypesAreHeld) {
  const std::vector<std::string> one_each = {"null",  "true", "-12",          "0.5",
                                             R"("")", "[1]",  R"({"a":null})"};
  ExpectHeld(std::vector<Row>{
      {"{}", one_each, {"", "nul", "True", "undefined", "1 2", "[1]]", "'a'", "NaN", "-"}},
      {R"({"type": "null"})", {"null"}, {"true", "0", R"("null")", "nulll", " null", "null "}},
      {R"({"type": "boolean"})", {"true", "false"}, {"null", "1", R"("true")"}},
      {R"({"type": "integer"})",
       {"0", "-5", "123456789012345678901234567890"},
       {"1.0", "1e3", "01", "-0", "+1", "0x1", "null", R"("1")", "1 "}},
      {R"({"type": "number"})",
       {"0", "-0", "-5", "0.25", "-1.5e+30", "1E5", "2e-7"},
       {".5", "5.", "+1", "1e", "00", "-", "NaN", "Infinity", "null", R"("1")"}},
      {R"({"type": "object"})",
       {"{}", R"({"a":1})", R"({"a":{"b":[{}]},"c":""})"},
       {"[]", "{1:2}", R"({"a"})", R"({"a":})", R"({"a":1,})", R"({,"a":1})", R"({a:1})"}},
      {R"({"type": "array"})",
       {"[]", "[1]", R"([null,"a",{"b":[]}])", "[[[]]]"},
       {"{}", "[1,]", "[,1]", "[1 2]", "[", "[1}"}},
      {R"({"type": ["integer", "null"]})", {"5", "null"}, {"5.5", "true", R"("a")"}},
      {R"({"type": ["object", "array", "string"], "minItems": 1, "maxLength": 1})",
       {R"({"a":1})", "[1]", R"("a")", R"("")"},
       {"[]", R"("ab")", "1", "null"}},
      {R"({"type": ["number", "boolean"], "minimum": 1})", {"true", "1", "2.5"}, {"0", "null"}},
  });
}

TEST(OutputMatcherTest, StringsAreJson) {
  ExpectHeld(std::vector<Row>{
      {R"({"type": "string"})",
       {R"("")", R"("a b")", R"("a\"b\\\/\b\f\n\r\t")", R"("\u00e9\uFFFF\uabCD")", "\"\xc3\xa9\"",
        "\"\xe2\x82\xac\"", "\"\xf0\x9f\x98\x80\"", "\"\x7f\"", R"("<tool_call>abc")",
        R"("<end><over>")"},
       {R"("a)", R"(a")", R"("a"b")", R"("\x41")", R"("\u00g9")", R"("\u12")", R"("\ud83d\ude00")",
        R"("\uDC00")", R"("\'")", "\"a\nb\"", "\"a\tb\"", "\"\x01\"", std::string("\"\0\"", 3),
        "\"\xff\"", "\"\xc3\"", "\"\xc0\x80\"", "\"\xe0\x80\x80\"", "\"\xf4\x90\x80\x80\"",
        "\"\x80\""}},
  });
}

TEST(OutputMatcherTest, LengthsAreHeld) {
  const std::string long_text(300, 'x');
  ExpectHeld(std::vector<Row>{
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {R"("ab")", R"("abc")", "\"\xc3\xa9\xc3\xa9\"", R"("😀😀😀")", "\"  \""},
       // Of escapes none: a length in characters could not be told.
       {R"("")", R"("a")", R"("abcd")", R"("é")", R"("😀😀😀😀")", R"("a\"b")", R"("ab\n")",
        R"("\u00e9b")", "\"a\nb\"", "\"a\tb\"", "\"\x1fxx\"", std::string("\"a\0b\"", 5),
        "\"ab\"c\"", "\"a\xff\"", "\"\xc3\xa9\xc3\""}},
      {R"({"type": "string", "maxLength": 0})", {R"("")"}, {R"("a")", R"(" ")"}},
      {R"({"type": "string", "minLength": 0})", {R"("")", R"("a\"b")"}, {"\"\n\""}},
      {R"({"type": "string", "minLength": 1})", {R"("a")", '"' + long_text + '"'}, {R"("")"}},
      {R"({"type": "string", "maxLength": 300})",
       {'"' + long_text + '"', R"("")"},
       {'"' + long_text + "x\""}},
      {R"({"type": "string", "minLength": 300})",
       {'"' + long_text + '"', '"' + long_text + "xyz\""},
       {'"' + long_text.substr(1) + '"'}},
      {R"({"type": "string", "minLength": 3, "maxLength": 3})",
       {R"("abc")", "\"\xe2\x82\xac\xc3\xa9x\""},
       {R"("ab")", R"("abcd")"}},
  });
}

TEST(OutputMatcherTest, FormatsAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"type": "string", "format": "date"})",
       {R"("2024-02-29")", R"("1999-12-31")"},
       {R"("2024-13-01")", R"("2024-00-01")", R"("2024-01-32")", R"("2024-1-1")",
        R"("2024-01-01 ")", R"("24-01-01")", R"("")", "2024-01-01", "null"}},
      {R"({"type": "string", "format": "time"})",
       {R"("23:59:59Z")", R"("12:00:00.123+01:00")", R"("00:00:00-08:30")"},
       {R"("24:00:00Z")", R"("12:60:00Z")", R"("12:00:00")", R"("12:00Z")", R"("12:00:00-24:00")"}},
      {R"({"type": "string", "format": "date-time"})",
       {R"("2024-02-29T12:00:00Z")", R"("2024-02-29T12:00:00.5-08:30")"},
       {R"("2024-02-29 12:00:00Z")", R"("2024-02-29T12:00:00")", R"("2024-02-29")"}},
      {R"({"type": "string", "format": "duration"})",
       {R"("P1D")", R"("PT5M")", R"("P1Y2M3DT4H5M6S")", R"("P2W")"},
       {R"("P")", R"("PT")", R"("1D")", R"("P1.5D")", R"("P1D1W")"}},
      {R"({"type": "string", "format": "hostname"})",
       {R"("a")", R"("example.com")", R"("a-1.b2")"},
       {R"("")", R"("-a.com")", R"("a-.com")", R"("a..b")", R"("a_b")"}},
      {R"({"type": "string", "format": "ipv4"})",
       {R"("1.2.3.4")", R"("255.255.255.255")"},
       {R"("256.1.1.1")", R"("1.2.3")", R"("1.2.3.4.5")"}},
      {R"({"type": "string", "format": "ipv6"})",
       {R"("::")", R"("::1")", R"("2001:db8::1")", R"("1:2:3:4:5:6:7:8")", R"("::ffff:1.2.3.4")"},
       {R"("1::2::3")", R"("12345::")", R"(":1")", R"("1:2:3:4:5:6:7")", R"("g::")"}},
      {R"({"type": "string", "format": "uuid"})",
       {R"("123e4567-e89b-12d3-a456-426614174000")", R"("123E4567-E89B-12D3-A456-426614174000")"},
       {R"("123e4567e89b12d3a456426614174000")", R"("123e4567-e89b-12d3-a456-42661417400")",
        R"("g23e4567-e89b-12d3-a456-426614174000")"}},
      {R"({"type": "string", "format": "email"})", {R"("not one")"}, {"1"}},
      {R"({"type": ["string", "null"], "format": "date"})",
       {R"("2024-01-31")", "null"},
       {R"("x")"}},
  });
}

TEST(OutputMatcherTest, BoundsOfIntegersAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"type": "integer", "minimum": -3, "maximum": 120})",
       {"-3", "-1", "0", "9", "99", "120"},
       {"-4", "-10", "121", "1000", "007", "-0", "1.0", "1e1"}},
      {R"({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5})",
       {"4"},
       {"3", "5", "44", "-4"}},
      {R"({"type": "integer", "minimum": -15, "exclusiveMaximum": -3})",
       {"-15", "-14", "-10", "-9", "-4"},
       {"-16", "-20", "-3", "-2", "0", "4", "15", "-"}},
      {R"({"type": "integer", "exclusiveMinimum": -1})",
       {"0", "1", "99999999999999999999"},
       {"-1", "-2"}},
      {R"({"type": "integer", "maximum": -10})", {"-10", "-99", "-100000"}, {"-9", "0", "10"}},
      {R"({"type": "integer", "maximum": 0})", {"0", "-1", "-12"}, {"1", "12"}},
      {R"({"type": "integer", "minimum": 5, "exclusiveMinimum": 5})", {"6", "50"}, {"5", "4"}},
      {R"({"type": "integer", "minimum": 5, "exclusiveMinimum": 2, "maximum": 9,
           "exclusiveMaximum": 12})",
       {"5", "9"},
       {"3", "4", "10", "11"}},
      {R"({"type": "integer", "minimum": 3.0, "maximum": 3})", {"3"}, {"2", "4", "3.0"}},
      {R"({"type": "integer", "minimum": 999999999999999, "maximum": 1e15})",
       {"999999999999999", "1000000000000000"},
       {"999999999999998", "1000000000000001", "1"}},
      {R"({"type": "integer", "minimum": -1e15})", {"-1000000000000000"}, {"-1000000000000001"}},
      {R"({"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991})",
       {"-9007199254740991", "9007199254740991", "0"},
       {"-9007199254740992", "9007199254740992"}},
  });
}

TEST(OutputMatcherTest, BoundsOfNumbersAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"type": "number", "minimum": -1.5, "exclusiveMaximum": 2.25})",
       {"-1.5", "-1.499999", "-1", "0", "0.5", "2", "2.249999"},
       // In a range numbers have no exponent.
       {"-1.500001", "-2", "2.25", "2.250001", "3", "1e0", "1.", "22"}},
      {R"({"type": "number", "exclusiveMinimum": 0})",
       {"0.000001", "0.5", "1", "1000000"},
       {"0", "0.0", "0.000000", "-1", "-0"}},
      {R"({"type": "number", "minimum": 0, "maximum": 0})", {"0", "0.0"}, {"1", "-1", "0.1"}},
      {R"({"type": "number", "maximum": -0.25, "minimum": -0.5})",
       {"-0.25", "-0.3", "-0.5"},
       {"-0.2", "-0.51", "0", "-1"}},
      {R"({"type": "number", "minimum": 41546379.06})",
       {"41546379.06", "41546380", "99999999.5"},
       {"41546379.05", "41546379", "0"}},
      {R"({"type": "number", "maximum": 123456789012345})",
       {"123456789012345", "0.5", "-7"},
       {"123456789012346", "123456789012345.1"}},
      {R"({"type": ["integer", "number"], "minimum": 3})", {"3", "3.5", "12"}, {"2", "2.5"}},
      {R"({"type": ["null", "integer", "string"], "maximum": 3})",
       {"3", "null", R"("9")"},
       {"4", "2.5"}},
  });
}

TEST(OutputMatcherTest, PropertiesStandInTheirOrder) {
  const std::string abc =
      R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}, "c": {}})";
  ExpectHeld(std::vector<Row>{
      {abc + "}",
       {"{}", R"({"a":1})", R"({"b":1})", R"({"a":1,"c":2})", R"({"a":1,"b":{"a":"x"},"c":3})"},
       {R"({"b":1,"a":1})", R"({"a":1,"a":1})", R"({"a":"x"})", R"({"d":1})", R"({"a":1,"d":1})",
        R"({"A":1})", R"({"":1})", R"({"\u0061":1})"}},
      {abc + R"(, "required": ["b"]})",
       {R"({"b":1})", R"({"a":1,"b":2})", R"({"b":1,"c":2})", R"({"a":1,"b":2,"c":3})"},
       {"{}", R"({"a":1})", R"({"c":1})", R"({"a":1,"c":1})", R"({"c":1,"b":1})"}},
      {abc + R"(, "required": ["c", "a", "b", "a"]})",
       {R"({"a":1,"b":2,"c":3})"},
       {"{}", R"({"a":1,"b":2})", R"({"a":1,"c":3})", R"({"c":1,"a":2,"b":3})"}},
      {abc + R"(, "additionalProperties": false, "required": []})",
       {"{}", R"({"c":1})"},
       {R"({"d":1})"}},
      {R"({"type": "object", "additionalProperties": false})", {"{}", "{ }"}, {R"({"a":1})"}},
      {R"({"properties": {"a/b": {}, "é\"\n": {}, "": {}}, "required": ["a/b", "é\"\n", ""]})",
       {R"({"a/b":1,"é\"\n":2,"":3})"},
       {R"({"a\/b":1,"é\"\n":2,"":3})", R"({"a/b":1,"é":2,"":3})", R"({"a/b":1,"":3})"}},
      {R"({"properties": {"a": {"properties": {"b": {"type": "null"}}, "required": ["b"]}}})",
       {R"({"a":{"b":null}})", "{}"},
       {R"({"a":{}})", R"({"a":null})", R"({"b":null})"}},
  });
}

TEST(OutputMatcherTest, OtherPropertiesAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"type": "object", "additionalProperties": {"type": "integer"}})",
       {"{}", R"({"a":1})", R"({"a":1,"b":2,"":3})"},
       {R"({"a":"x"})", R"({"a":1,"b":null})"}},
      {R"({"type": "object", "properties": {}})", {"{}", R"({"a":[1]})"}, {"[]"}},
  });
}

TEST(OutputMatcherTest, ItemsAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
       {"[1,2]", "[1,2,3]"},
       {"[]", "[1]", "[1,2,3,4]", R"([1,"a"])", "[1,2"}},
      {R"({"type": "array", "minItems": 1})", {"[1]", R"([[],{}])"}, {"[]"}},
      {R"({"type": "array", "items": {"type": "null"}, "maxItems": 0})", {"[]"}, {"[null]"}},
      {R"({"type": "array", "items": false})", {"[]", "[ ]"}, {"[1]"}},
      {R"({"type": "array", "maxItems": 1})", {"[]", R"(["a"])"}, {"[1,2]"}},
      {R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]})",
       {"[]", "[1]", R"([1,"a"])", R"([1,"a",null,2])"},
       {R"(["a"])", "[1,2]"}},
      {R"({"type": "array", "prefixItems": [{"type": "integer"}, true], "items": false})",
       {"[]", "[1]", "[1,{}]"},
       {"[1,2,3]", "[true]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "string"},
           "minItems": 1, "maxItems": 3})",
       {"[1]", R"([1,"a"])", R"([1,"a","b"])"},
       {"[]", "[2]", "[1,1]", R"([1,"a","b","c"])"}},
      {R"({"items": {"items": {"type": "boolean"}, "minItems": 1}, "minItems": 2})",
       {"[[true],[false,true]]"},
       {"[[true]]", "[[],[]]", "[true,true]"}},
  });
}

TEST(OutputMatcherTest, ValuesAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"enum": ["a", "ab", 1, 12, null, true, 0.1, -2.5]})",
       {R"("a")", R"("ab")", "1", "12", "null", "true", "0.1", "-2.5"},
       {R"("b")", R"("abc")", "2", "false", "0.10", "1.0", R"("1")", "122"}},
      {R"({"const": "é\"\\\n\u0001/😀"})",
       {"\"é\\\"\\\\\\n\\u0001/😀\""},
       {R"("é")", "\"é\\\"\\\\\n\\u0001/😀\""}},
      {R"({"const": {"b": 1, "a": [null, {"c": "x"}], "10": {}}})",
       {R"({"b":1,"a":[null,{"c":"x"}],"10":{}})"},
       {R"({"b":1})", R"({"a":[null,{"c":"x"}],"b":1,"10":{}})"}},
      {R"({"enum": [9007199254740993, -9223372036854775808, 9223372036854775807, 1e17, 1e3]})",
       {"9007199254740993", "-9223372036854775808", "9223372036854775807", "1e+17", "1000"},
       {"9007199254740992", "9223372036854775808"}},
      {R"({"enum": ["x"], "type": "string"})", {R"("x")"}, {R"("y")"}},
      {R"({"const": null})", {"null"}, {"0"}},
      {R"({"enum": ["", "{}", []]})", {R"("")", R"("{}")", "[]"}, {"{}"}},
  });
}

TEST(OutputMatcherTest, AlternativesAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "string", "maxLength": 1}]})",
       {"5", "null", R"("a")", R"("")"},
       {"true", R"("ab")", "5.5"}},
      {R"({"anyOf": [{"type": "integer", "minimum": 5}, {"type": "number", "maximum": -1}]})",
       {"5", "-1.5", "-2"},
       {"4", "5.5", "0"}},
      {R"({"oneOf": [{"type": "string"}, {"type": "integer"}]})", {R"("a")", "5"}, {"null", "1.5"}},
      {R"({"oneOf": [{"enum": [1, 2]}, {"enum": ["1", 3]}]})", {"1", R"("1")", "3"}, {"4"}},
      {R"({"oneOf": [
            {"properties": {"k": {"const": "a"}, "v": {"type": "integer"}}, "required": ["k", "v"]},
            {"properties": {"k": {"const": "b"}, "w": {"type": "string"}}, "required": ["k"]}],
           "discriminator": {"propertyName": "k"}})",
       {R"({"k":"a","v":1})", R"({"k":"b","w":""})", R"({"k":"b"})"},
       {R"({"k":"b","v":1})", R"({"k":"a","w":""})", R"({"k":"c"})", "{}"}},
  });
}

TEST(OutputMatcherTest, ReferencesAreHeld) {
  ExpectHeld(std::vector<Row>{
      {R"({"properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"},
           {"type": "null"}]}}, "required": ["v", "next"]})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
       {R"({"v":1})", R"({"v":1,"next":{"v":2}})", R"({"v":1,"next":1})"}},
      {R"({"$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"})",
       {"[]", "[[],[[],[[]]]]"},
       {"[1]", "[[]", "[{}]"}},
      {R"({"$defs": {"a b": {"type": "integer"}, "c/d~": {"type": "null"}, "5%": {"const": "x"}},
           "anyOf": [{"$ref": "#/$defs/a%20b"}, {"$ref": "#/$defs/c~1d~0"}, {"$ref": "#/$defs/5%"}]})",
       {"1", "null", R"("x")"},
       {"true", R"("a")"}},
      {R"({"definitions": {"x": {"allOf": [{"$ref": "#/definitions/y"}], "title": "X"},
           "y": {"enum": [1, 2]}}, "properties": {"a": {"$ref": "#/definitions/x"}}})",
       {R"({"a":1})", "{}"},
       {R"({"a":3})"}},
  });
}

TEST(OutputMatcherTest, WhiteSpaceIsBounded) {
  const std::string schema =
      R"({"properties": {"a": {"type": "array"}, "b": {}}, "required": ["a"]})";
  const std::string most(32, ' ');
  ExpectHeld(std::vector<Row>{
      {schema,
       {R"({"a": [1, 2], "b": {"c": 1}})", "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": null\n}",
        "{\r\n\t\"a\" : [ ] }",
        "{" + most + "\"a\"" + most + ":" + most + "[" + most + "]" + most + "}"},
       {"{" + most + " \"a\":[]}", "{\"a\":" + most + " []}", "{\"a\":[" + most + " ]}",
        "{\"a\":[]" + most + " }", "{\"a\":[1," + most + " 2]}", " {\"a\":[]}", "{\"a\":[]} ",
        "{\"a\":[]}\n", "{\"a\":\v[]}"}}});
}

}  // namespace
}  // namespace kvship
