#include "decode_service/grammar/xml_arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tool_call_reader.h"
#include "tests/decode_service/grammar/structure_walk.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Json = nlohmann::json;

constexpr char kAfter[] = "</function>\n</tool_call>";

// Of one property, `a`, which is required.
std::string Of(absl::string_view schema, absl::string_view others = "") {
  return absl::StrCat(R"({"properties": {"a": )", schema, R"(}, "required": ["a"])", others, "}");
}

std::string Argument(absl::string_view name, absl::string_view text) {
  return absl::StrCat("<parameter=", name, ">\n", text, "\n</parameter>\n");
}

absl::StatusOr<std::string> StructureOfTools(const std::vector<std::string>& tools,
                                             const char* forced_call = nullptr) {
  v1::GenerateRequest request;
  for (const std::string& tool : tools) request.mutable_chat()->add_tools(tool);
  if (forced_call != nullptr) request.mutable_chat()->set_forced_call(forced_call);
  return OutputStructure(request, ToolSyntax::kQwenXml);
}

// Whether a forced call may have these arguments: why not, or "".
std::string Walk(absl::string_view schema, absl::string_view arguments,
                 absl::string_view strict = "true") {
  const auto structure = StructureOfTools({ToolJson("f", schema, strict)}, "f");
  if (!structure.ok()) return structure.status().ToString();
  return WalkWhole(*structure, absl::StrCat(arguments, kAfter));
}

// What they are read as.
std::string Read(absl::string_view schema, absl::string_view arguments) {
  const std::vector<std::string> tools = {ToolJson("f", schema)};
  ToolCallReader reader(ToolSyntax::kQwenXml, /*thinks=*/false, tools);
  const auto found =
      reader.Add(absl::StrCat(CallBeginning(ToolSyntax::kQwenXml, "f"), arguments, kAfter));
  return found.calls.size() == 1 && found.text.empty() ? found.calls[0].arguments : "no call";
}

// `texts` of the property of Of(schema) are allowed, and read as the JSON beside them.
void ExpectHeld(absl::string_view schema,
                const std::vector<std::pair<std::string, std::string>>& texts,
                const std::vector<std::string>& wrong) {
  for (const auto& [text, value] : texts) {
    EXPECT_EQ(Walk(schema, Argument("a", text)), "") << schema << "\n" << text;
    EXPECT_EQ(Json::parse(Read(schema, Argument("a", text))), Json({{"a", Json::parse(value)}}))
        << schema << "\n"
        << text;
  }
  for (const std::string& text : wrong) {
    EXPECT_THAT(Walk(schema, Argument("a", text)), StartsWith("not ")) << schema << "\n" << text;
  }
}

TEST(XmlArgumentsTest, StringsAreBareText) {
  ExpectHeld(Of(R"({"type": "string", "description": "d"})"),
             {{"x", R"("x")"},
              {"", R"("")"},
              {"5", R"("5")"},
              {"null", R"("null")"},
              {" \n\"a\\b\"\n\n", R"(" \n\"a\\b\"\n\n")"},
              {"<b>&amp;</b> </paramete <function=", R"("<b>&amp;</b> </paramete <function=")"},
              {"é😀", R"("é😀")"}},
             {"a</parameter>b", "</parameter>", "</parameter>\n<parameter=b>\n"});
  ExpectHeld(Of("{}"), {{"{}", R"("{}")"}}, {});
}

TEST(XmlArgumentsTest, WhatIsNoStringIsJson) {
  ExpectHeld(Of(R"({"type": "integer", "maximum": 9})"), {{"5", "5"}, {"-12", "-12"}},
             {"", "x", "5.5", "10", "\"5\""});
  ExpectHeld(Of(R"({"type": ["boolean", "null", "number"]})"),
             {{"true", "true"}, {"null", "null"}, {"1.5", "1.5"}}, {"True", "x", "{}"});
  ExpectHeld(Of(R"({"items": {"type": "string"}})"),
             {{"[]", "[]"},
              {"[ \"a\",\n\"b\" ]", R"(["a", "b"])"},
              {"[\"</parameter>\\n</function>\", \"]</parameter></function>\"]",
               R"(["</parameter>\n</function>", "]</parameter></function>"])"}},
             {"a", "[1]", "[", "[\"a\"]]"});
  ExpectHeld(Of(R"({"properties": {"b": {"type": "string", "maxLength": 2}}, "required": ["b"]})"),
             {{R"({"b": "x"})", R"({"b": "x"})"}}, {"{}", "b", R"({"b": "xyz"})"});
}

TEST(XmlArgumentsTest, NullMayStandBesideStrings) {
  for (const char* schema : {R"({"type": ["string", "null"]})",
                             R"({"anyOf": [{"type": "string"}, {"type": "null"}]})"}) {
    ExpectHeld(Of(schema), {{"x", R"("x")"}, {"null", "null"}, {"5", R"("5")"}}, {"</parameter>"});
  }
  ExpectHeld(Of(R"({"type": ["null", "string"], "maxLength": 2})"),
             {{"xy", R"("xy")"}, {"null", "null"}}, {"xyz", "nul"});
  ExpectHeld(Of(R"({"oneOf": [{"enum": ["b", "c"]}, {"type": "null"}]})"),
             {{"b", R"("b")"}, {"null", "null"}}, {"d", ""});
}

TEST(XmlArgumentsTest, ValuesOfEnumAreThemselves) {
  ExpectHeld(Of(R"({"enum": ["one", "null", "2", ""]})"),
             {{"one", R"("one")"}, {"null", R"("null")"}, {"2", R"("2")"}, {"", R"("")"}},
             {"on", "\"one\"", "1"});
  ExpectHeld(Of(R"({"enum": ["a", 1, null, {"b": [2]}]})"),
             {{"a", R"("a")"}, {"1", "1"}, {"null", "null"}, {R"({"b":[2]})", R"({"b": [2]})"}},
             {"b", "2"});
  ExpectHeld(Of(R"({"const": "x\ny"})"), {{"x\ny", R"("x\ny")"}}, {"x"});
  ExpectHeld(Of(R"({"$ref": "#/$defs/a%20b"})", R"(, "$defs": {"a b": {"enum": ["u", "v"]}})"),
             {{"u", R"("u")"}}, {"w"});
}

TEST(XmlArgumentsTest, StringsAreHeldToLengthsPatternsAndFormats) {
  ExpectHeld(Of(R"({"type": "string", "minLength": 1, "maxLength": 3})"),
             {{"a", R"("a")"}, {"é😀c", R"("é😀c")"}}, {"", "abcd", "a<", "a\nb"});
  ExpectHeld(Of(R"({"type": "string", "minLength": 2})"), {{"ab", R"("ab")"}}, {"a"});
  ExpectHeld(Of(R"({"type": "string", "pattern": "^[a-z]+.?$"})"),
             {{"ab", R"("ab")"}, {"ab!", R"("ab!")"}}, {"", "5", "ab<", "ab!!"});
  ExpectHeld(Of(R"({"type": "string", "pattern": "b"})"), {{"abc", R"("abc")"}}, {"", "a", "b<"});
  const std::vector<std::vector<std::string>> formats = {
      {"date", "2024-02-30", "2024-2-3", " 2024-02-03"},
      {"time", "12:34:60.5Z", "12:34", "24:00:00Z"},
      {"date-time", "2024-02-03T12:34:56+01:30", "2024-02-03 12:34:56Z", "2024-02-03"},
      {"duration", "P1Y2M3DT4H", "1D", "P"},
      {"hostname", "a-b.example", "-a", "a..b"},
      {"ipv4", "192.168.1.255", "1.2.3", "1.2.3.256"},
      {"ipv6", "1:2::7:8", "1:2:3", "1::2::3"},
      {"ipv6", "::", ":", "12345::"},
      {"ipv6", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "g::"},
      {"uuid", "01234567-89ab-cdef-0123-456789ABCDEF", "0123", "g"}};
  for (const auto& format : formats) {
    ExpectHeld(Of(absl::StrCat(R"({"type": "string", "format": ")", format[0], "\"}")),
               {{format[1], absl::StrCat("\"", format[1], "\"")}}, {format[2], format[3]});
  }
}

TEST(XmlArgumentsTest, ALongStringMayHaveALength) {
  const std::string schema = Of(R"({"type": "string", "maxLength": 100000})");
  ExpectHeld(schema, {{std::string(300, 'x'), absl::StrCat("\"", std::string(300, 'x'), "\"")}},
             {"<"});
}

TEST(XmlArgumentsTest, DefinitionsAreThoseOfTheWhole) {
  const std::string schema =
      Of(R"({"$ref": "#/$defs/tree"})",
         R"(, "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}})");
  ExpectHeld(schema, {{"[[], [[]]]", "[[], [[]]]"}}, {"[1]", "x"});
}

TEST(XmlArgumentsTest, ArgumentsComeInTheOrderOfTheirProperties) {
  const std::string schema =
      R"({"properties": {"b": {"type": "string"}, "a": {"type": "integer"}, "c": {"type": "null"}},
          "required": ["b"], "additionalProperties": false})";
  const std::string a = Argument("a", "5"), b = Argument("b", "x"), c = Argument("c", "null");
  EXPECT_EQ(Walk(schema, b), "");
  EXPECT_EQ(Walk(schema, b + a + c), "");
  EXPECT_EQ(Walk(schema, b + c), "");
  EXPECT_EQ(Read(schema, b + a + c), R"({"b": "x", "a": 5, "c": null})");
  for (const std::string& wrong : {std::string(), a, a + b, b + b, b + Argument("d", "x"),
                                   b + "\n" + a, b.substr(0, b.size() - 1)}) {
    EXPECT_THAT(Walk(schema, wrong), StartsWith("not ")) << wrong;
  }
}

TEST(XmlArgumentsTest, WithoutPropertiesThereAreNoneOrAny) {
  const std::string any = Argument("b-c", "x") + Argument("d_1", "\n");
  EXPECT_EQ(Walk(R"({"type": "object", "additionalProperties": false})", ""), "");
  EXPECT_THAT(Walk(R"({"type": "object", "additionalProperties": false})", any),
              StartsWith("not "));
  for (const char* schema : {R"({"type": "object"})", "{}"}) {
    EXPECT_EQ(Walk(schema, ""), "");
    EXPECT_EQ(Walk(schema, any), "");
    EXPECT_THAT(Walk(schema, "text"), StartsWith("not "));
  }
  EXPECT_EQ(Walk("null", ""), "");
  EXPECT_THAT(Walk("null", any), StartsWith("not "));
  // As of a tool that is not strict.
  EXPECT_EQ(Walk(Of(R"({"type": "integer"})"), any, /*strict=*/"false"), "");
  const char* const integers = R"({"additionalProperties": {"type": "integer"}, "type": "object"})";
  EXPECT_EQ(Walk(integers, Argument("a", "5") + Argument("b", "6")), "");
  EXPECT_THAT(Walk(integers, Argument("a", "x")), StartsWith("not "));
}

TEST(XmlArgumentsTest, WhatBareTextDoesNotTellApartIsRefused) {
  const auto message = [](absl::string_view schema) {
    return std::string(StructureOfTools({ToolJson("f", schema)}).status().message());
  };
  const std::string at = "chat.tools[0].function.parameters";
  EXPECT_THAT(
      message(Of(R"({"type": ["string", "integer"]})")),
      StartsWith(at +
                 R"(.properties.a is {"type":["string","integer"]}; wanted no type but null)"));
  EXPECT_THAT(message(Of(R"({"anyOf": [{"type": "string"}, {"type": "array"}]})")),
              HasSubstr("wanted no type but null"));
  EXPECT_THAT(message(Of(R"({"enum": ["1", 2]})")),
              StartsWith(at + R"(.properties.a is "1"; wanted a value)"));
  EXPECT_THAT(message(Of(R"({"const": "</parameter>"})")), HasSubstr("wanted a value"));
  EXPECT_THAT(message(Of(R"({"items": {"$ref": "#"}})")),
              StartsWith(at + " refers to itself by #"));
  EXPECT_THAT(message(R"({"properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"],
                  "additionalProperties": false,
                  "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}})"),
              HasSubstr("wanted at most 512 alternatives in all, none of which is its own"));
  EXPECT_THAT(message(R"({"type": "array"})"), HasSubstr("wanted an object with properties"));
  EXPECT_THAT(message(R"({"anyOf": [{"type": "object"}]})"), HasSubstr("wanted an object"));
  EXPECT_THAT(message(R"({"properties": {"a>": {}}})"), HasSubstr("a name, without < and >"));
  EXPECT_THAT(message(Of(R"({"type": "string", "pattern": "^<$"})")),
              HasSubstr("pattern is \"^<$\""));
}

TEST(XmlArgumentsTest, WhatEachArgumentTakesAlongIsBounded) {
  // Arguments of a schema with 15 KB of definitions, which each takes along that refers to one.
  const auto structure_of = [](const std::string& argument) {
    std::string properties, values;
    for (int i = 0; i < 290; ++i)
      absl::StrAppend(&properties, i == 0 ? "" : ",", "\"a", i, "\":", argument);
    for (int i = 0; i < 450; ++i)
      absl::StrAppend(&values, i == 0 ? "" : ",", "\"", std::string(28, 'x'), i, "\"");
    return StructureOfTools({ToolJson(
        "f", absl::StrCat(R"({"$defs": {"long": {"enum": [)", values,
                          R"(]}, "list": {"items": {"$ref": "#/$defs/long"}}}, "properties": {)",
                          properties, "}}"))});
  };
  EXPECT_LT(structure_of(R"({"type": "boolean"})")->size(), 200'000u);
  for (const char* argument : {R"({"$ref": "#/$defs/list"})", R"({"$ref": "#/$defs/long"})"}) {
    EXPECT_THAT(std::string(structure_of(argument).status().message()),
                HasSubstr("; wanted arguments that take at most 4194304 bytes, each with the "
                          "definitions where it refers to one"));
  }
}

// Any allowed token, and as a rule the next byte of what ends an argument, where that may stand.
std::string RandomArguments(const std::string& structure, std::mt19937& random) {
  constexpr absl::string_view kEnd = "\n</parameter>\n";
  constexpr size_t kMostTokens = 2000;
  const auto matcher = *TheGrammars().Match(structure);
  std::string text;
  size_t at = 0;  // of the end
  for (size_t drawn = 0; drawn < kMostTokens; ++drawn) {
    const TokenMask mask = *matcher->Allowed();
    if (Allows(mask, WalkedTokenizer::kEnd)) return text;
    auto token = static_cast<int32_t>(kEnd[at]);
    if (!Allows(mask, token) || random() % 12 == 0) {
      do token = static_cast<int32_t>(random() % TheWalkedTokenizer().vocab_tokens());
      while (!Allows(mask, token));
    }
    EXPECT_EQ(matcher->Accept(token), absl::OkStatus());
    const absl::string_view bytes = TheWalkedTokenizer().TokenBytes(token);
    at = bytes == kEnd.substr(at, 1) ? (at + 1) % kEnd.size() : 0;
    absl::StrAppend(&text, bytes);
  }
  return "";
}

TEST(XmlArgumentsTest, WhateverIsDrawnIsReadAsItsSchemaSays) {
  const std::string schema = R"({"properties": {"s": {"type": "string"},
      "n": {"type": ["string", "null"]}, "l": {"items": {"type": "string", "maxLength": 4}},
      "e": {"enum": ["a", "</p", 5]}, "p": {"type": "string", "pattern": "^.{1,3}$"}},
      "required": ["s", "n", "l", "e", "p"]})";
  const std::string structure = *StructureOfTools({ToolJson("f", schema)}, "f");
  std::mt19937 random(1);
  size_t num_ended = 0;
  for (int round = 0; round < 200; ++round) {
    std::string arguments = RandomArguments(structure, random);
    if (arguments.empty()) continue;
    ++num_ended;
    arguments.resize(arguments.rfind(kAfter));
    const Json read = Json::parse(Read(schema, arguments), nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(read.is_object() && read.size() == 5) << arguments << "\n" << read;
    EXPECT_TRUE(read["s"].is_string() && (read["n"].is_string() || read["n"].is_null())) << read;
    EXPECT_TRUE(read["l"].is_array()) << read;
    EXPECT_TRUE(read["e"] == "a" || read["e"] == "</p" || read["e"] == 5) << read;
    EXPECT_TRUE(read["p"].is_string()) << read;
  }
  EXPECT_GT(num_ended, 100u);
}

std::string Call(absl::string_view name, absl::string_view arguments) {
  return absl::StrCat("<tool_call>\n<function=", name, ">\n", arguments, kAfter);
}

TEST(XmlCallsTest, StandAmongAnyText) {
  const std::string get = Call("get", Argument("a", "5")), put = Call("put", Argument("b", "x"));
  const auto structure = StructureOfTools(
      {ToolJson("get", Of(R"({"type": "integer"})")), ToolJson("put", "{}", /*strict=*/"false")});
  ASSERT_TRUE(structure.ok()) << structure.status();
  for (const std::string& text :
       {std::string(), std::string("a < b, <tool_cal, <functio"), get, put, get + "\n" + put,
        "Let me see.\n" + get + " and " + put + " so.", Call("put", "")}) {
    EXPECT_EQ(WalkWhole(*structure, text), "") << text;
  }
  for (const std::string& text :
       {Call("get", Argument("a", "x")), Call("get", ""), Call("set", ""), get.substr(0, 30),
        std::string("<tool_call>"), std::string("text <function=get>"), std::string("a<function="),
        get + "<function=put>\n"}) {
    EXPECT_THAT(WalkWhole(*structure, text), StartsWith("not ")) << text;
  }
}

TEST(XmlCallsTest, MayBeForced) {
  const std::vector<std::string> tools = {ToolJson("get", Of(R"({"type": "integer"})")),
                                          ToolJson("put", "{}", /*strict=*/"false")};
  const auto any = StructureOfTools(tools, "");
  const std::string get = "get>\n" + Argument("a", "5") + kAfter;
  EXPECT_EQ(WalkWhole(*any, get), "");
  EXPECT_EQ(WalkWhole(*any, get + "\n" + Call("put", "") + "\n" + Call("get", Argument("a", "6"))),
            "");
  for (const std::string& text : {std::string(), "<function=" + get, get + " text", get + "\n",
                                  std::string("set>\n") + kAfter}) {
    EXPECT_THAT(WalkWhole(*any, text), StartsWith("not ")) << text;
  }
}

TEST(XmlCallsTest, WithASchemaTheOutputIsOfItOrCalls) {
  v1::GenerateRequest request;
  request.mutable_chat()->add_tools(ToolJson("put", "{}"));
  request.set_json_schema(R"({"type": "array", "items": {"type": "null"}})");
  const auto structure = OutputStructure(request, ToolSyntax::kQwenXml);
  ASSERT_TRUE(structure.ok()) << structure.status();
  for (const std::string& text :
       {std::string("[null]"), Call("put", ""), Call("put", "") + "\n" + Call("put", "")}) {
    EXPECT_EQ(WalkWhole(*structure, text), "") << text;
  }
  for (const std::string& text :
       {std::string("text"), "[]" + Call("put", ""), "text" + Call("put", "")}) {
    EXPECT_THAT(WalkWhole(*structure, text), StartsWith("not ")) << text;
  }
}

}  // namespace
}  // namespace kvship
