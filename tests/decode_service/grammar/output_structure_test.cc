#include "decode_service/grammar/output_structure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "decode_service/grammar/json_schema.h"
#include "rpc/errors.h"
#include "tests/decode_service/grammar/structure_walk.h"

namespace kvship {
namespace {

using ::testing::StartsWith;

constexpr char kInteger[] = R"({"properties": {"a": {"type": "integer"}}, "required": ["a"]})";
constexpr char kNothing[] = R"({"type": "object", "additionalProperties": false})";

v1::GenerateRequest WithTools(const std::vector<std::string>& tools) {
  v1::GenerateRequest request;
  for (const std::string& tool : tools) request.mutable_chat()->add_tools(tool);
  return request;
}

// Of a strict tool "get" with an integer `a`, a strict one "put" without arguments and one whose
// arguments are not held, "set".
v1::GenerateRequest GetPutSet() {
  return WithTools(
      {ToolJson("get", kInteger), ToolJson("put", kNothing), ToolJson("set", kInteger, "false")});
}

// How a syntax writes calls whose arguments are JSON.
struct Spelling {
  const char* name;
  ToolSyntax syntax;
  std::string before_all, before_name, before_arguments, after, between, after_all;
};

const Spelling kSpellings[] = {
    {"Hermes", ToolSyntax::kHermes, "", "<tool_call>\n{\"name\": \"",
     "\", \"arguments\":", "}\n</tool_call>", "\n", ""},
    {"Llama3", ToolSyntax::kLlama3, "", "{\"name\": \"", "\", \"parameters\":", "}", "; ", ""},
    {"MistralList", ToolSyntax::kMistralList, "[TOOL_CALLS][", "{\"name\": \"",
     "\", \"arguments\":", "}", ", ", "]"},
    {"MistralSpacedList", ToolSyntax::kMistralSpacedList, "[TOOL_CALLS] [", "{\"name\": \"",
     "\", \"arguments\":", "}", ", ", "]"},
    {"Mistral", ToolSyntax::kMistral, "", "[TOOL_CALLS]", "[ARGS]", "", "", ""},
};

class OutputStructureTest : public ::testing::TestWithParam<Spelling> {
 protected:
  // What a call has behind a prompt that ends with what stands before its arguments.
  std::string BehindArguments(absl::string_view arguments) const {
    return absl::StrCat(writes_json_names() ? " " : "", arguments, GetParam().after);
  }
  // And before its name.
  std::string BehindName(absl::string_view name, absl::string_view arguments) const {
    return absl::StrCat(name, GetParam().before_arguments, BehindArguments(arguments));
  }
  // One of several.
  std::string Each(absl::string_view name, absl::string_view arguments) const {
    return absl::StrCat(GetParam().before_name, BehindName(name, arguments));
  }
  std::string All(absl::string_view calls) const {
    return absl::StrCat(GetParam().before_all, calls, GetParam().after_all);
  }
  std::string CallOf(absl::string_view name, absl::string_view arguments) const {
    return All(Each(name, arguments));
  }
  bool writes_json_names() const { return GetParam().syntax != ToolSyntax::kMistral; }
  bool is_llama3() const { return GetParam().syntax == ToolSyntax::kLlama3; }

  absl::StatusOr<std::string> StructureOr(const v1::GenerateRequest& request) const {
    return OutputStructure(request, GetParam().syntax);
  }
  std::string Structure(const v1::GenerateRequest& request) const {
    const auto structure = StructureOr(request);
    EXPECT_TRUE(structure.ok()) << structure.status();
    return structure.value_or("");
  }
  void ExpectHeld(const v1::GenerateRequest& request, const std::vector<std::string>& good,
                  const std::vector<std::string>& wrong) const {
    const std::string structure = Structure(request);
    for (const std::string& text : good) EXPECT_EQ(WalkWhole(structure, text), "") << text;
    for (const std::string& text : wrong) {
      EXPECT_THAT(WalkWhole(structure, text), StartsWith("not ")) << text;
    }
  }
  const std::string between_ = GetParam().between;
  const std::string end_ = GetParam().after_all;
};

INSTANTIATE_TEST_SUITE_P(Syntaxes, OutputStructureTest, ::testing::ValuesIn(kSpellings),
                         [](const auto& info) { return info.param.name; });

TEST_P(OutputStructureTest, NothingIsHeldWithoutASchemaOrAStrictTool) {
  EXPECT_EQ(Structure({}), "");
  EXPECT_EQ(Structure(WithTools({})), "");
  for (const char* strict : {"false", "null", "1", "\"true\""}) {
    EXPECT_EQ(Structure(WithTools({ToolJson("get", R"({"pattern": 5})", strict)})), "");
  }
  EXPECT_EQ(Structure(WithTools({R"({"type": "function", "function": {"name": "get"}})", "{}",
                                 "no JSON", R"({"function": 5})"})),
            "");
}

TEST_P(OutputStructureTest, CallsOfStrictToolsAreHeldAmongAnyText) {
  const std::string get = CallOf("get", R"({"a": 5})"), put = CallOf("put", "{}");
  ExpectHeld(
      GetPutSet(),
      {"", "any text", "<tool_cal", "é <end>\n\n", get,
       All(Each("get", R"({"a": 5})") + between_ + Each("put", "{}")),
       CallOf("set", R"({"a": "x", "b": [1, {}]})"), CallOf("set", "{}"),
       CallOf("get", "{\n  \"a\": -12\n}")},
      {CallOf("get", R"({"a": "x"})"), CallOf("get", "{}"), CallOf("get", R"({"a": 1, "b": 2})"),
       CallOf("put", R"({"a": 5})"), CallOf("set", "[1]"), CallOf("set", "5"),
       CallOf("set", R"({"a": 1)"), CallOf("gets", R"({"a": 5})"), CallOf("", "{}"),
       CallOf("Get", R"({"a": 5})"), CallOf("other", "{}"), get + CallOf("get", "{}"),
       get.substr(0, get.size() - 1), get.substr(0, 20)});
  if (!is_llama3()) {
    ExpectHeld(GetPutSet(),
               {"{\"name\"", put + put, "Let me see.\n" + get + "\nAnd " + put + " so."},
               {"text " + CallOf("other", "{}")});
  } else {
    // Whoever reads the answer takes what begins as an object for a call, however it is spelled.
    ExpectHeld(GetPutSet(), {"No call: " + CallOf("other", "{}"), "see {} there"},
               {"{\"name\"", "{}", R"({"name":"get", "parameters": {"a": "x"}})", "\n{}", " " + get,
                R"({"type": "function", "name": "get", "parameters": {}})", put + put,
                get + " and so on"});
  }
}

TEST_P(OutputStructureTest, ACallOfThisToolIsHeldToItsEnd) {
  const auto behind = [this](absl::string_view arguments) {
    return BehindArguments(arguments) + end_;
  };
  v1::GenerateRequest request = GetPutSet();
  request.mutable_chat()->set_forced_call("get");
  const std::string good = behind(R"({"a": 5})");
  ExpectHeld(
      request, {good, behind(R"({ "a":5 })")},
      {"", good.substr(1), " " + good, good + "\n", good + (between_ + " ") + CallOf("put", "{}"),
       behind("{}"), behind(R"({"a": 5, "b": 1})"), "text"});
  request.mutable_chat()->set_forced_call("set");
  ExpectHeld(request, {behind("{}"), behind(R"({"b": [null]})")}, {behind("[]"), behind("null")});
}

TEST_P(OutputStructureTest, ACallOfAnyToolIsHeldAndMoreMayFollow) {
  v1::GenerateRequest request = GetPutSet();
  request.mutable_chat()->set_forced_call("");
  const std::string get = BehindName("get", R"({"a": 5})"), put = BehindName("put", "{}");
  const std::string more = between_ + Each("get", R"({"a": 6})");
  ExpectHeld(request,
             {get + end_, put + end_, BehindName("set", R"({"a": "x"})") + end_, get + more + end_,
              put + more + more + more + end_, get + between_ + Each("set", "{}") + more + end_},
             {"", "\"" + get + end_, " " + get + end_, get + " and text" + end_,
              get + "\n\n" + put + end_, get + (between_ + ".") + end_,
              get + ("." + Each("put", "{}")) + end_, BehindName("get", "{}") + end_,
              BehindName("other", "{}") + end_, get + between_ + Each("get", "{}") + end_,
              get + between_ + "text" + end_, get + more.substr(0, more.size() - 1) + end_});
}

TEST_P(OutputStructureTest, WithASchemaTheOutputIsOfItOrCalls) {
  v1::GenerateRequest request = GetPutSet();
  request.set_json_schema(R"({"type": "array", "items": {"type": "null"}})");
  if (is_llama3()) {
    EXPECT_EQ(StructureOr(request).status().message(),
              "json_schema is set; wanted it left out beside tools, whose calls are JSON, too");
    return;
  }
  const std::string get = CallOf("get", R"({"a": 5})"), put = CallOf("put", "{}");
  const std::string each = Each("get", R"({"a": 5})");
  ExpectHeld(
      request,
      {"[]", "[null, null]", get, All(Each("put", "{}") + between_ + each + between_ + each)},
      {"", "[1]", "text", "[]" + get, get + "[]", get + "." + put, All(each + between_ + "."),
       CallOf("get", "{}"), "text " + get});
  // Without a strict tool, too.
  request = WithTools({ToolJson("get", kInteger, "false")});
  request.set_json_schema(R"({"properties": {"name": {"type": "integer"}}})");
  ExpectHeld(request, {"{}", R"({"name": 5})", CallOf("get", R"({"b": "x"})")},
             {R"({"name": "get"})", CallOf("put", "{}"), "text", ""});
}

TEST_P(OutputStructureTest, ToolsHaveTheQuotasOfOneSchema) {
  std::string properties = "\"p\": {}";
  for (int i = 1; i < 200; ++i) absl::StrAppend(&properties, ", \"p", i, "\": {}");
  const std::string large = absl::StrCat(R"({"properties": {)", properties, "}}");
  const auto message = [this, &large](const char* strict) {
    return std::string(StructureOr(WithTools({ToolJson("a", large), ToolJson("b", large),
                                              ToolJson("c", large, strict)}))
                           .status()
                           .message());
  };
  EXPECT_EQ(message("false"), "");
  EXPECT_EQ(message("true"),
            "chat.tools[2].function.parameters has 600 or more properties and prefixItems; wanted "
            "at most 512");
  const std::vector<std::string> many(129, ToolJson("a", "{}"));
  EXPECT_THAT(std::string(StructureOr(WithTools(many)).status().message()),
              StartsWith("chat.tools is a list of 129; wanted at most 128 tools"));
}

TEST_P(OutputStructureTest, AStrictToolWithoutParametersTakesNone) {
  const v1::GenerateRequest request =
      WithTools({ToolJson("get", "null"),
                 R"({"function": {"name": "put", "strict": true, "description": "d"}})"});
  ExpectHeld(request, {CallOf("get", "{}"), CallOf("put", "{}"), "text"},
             {CallOf("get", "[]"), CallOf("put", R"({"a": [1]})"), CallOf("set", "{}")});
}

TEST_P(OutputStructureTest, NamesAreWrittenAsPromptsHaveThem) {
  const v1::GenerateRequest request =
      WithTools({ToolJson(R"(g\u00e9t)", kNothing), ToolJson(R"(a\"b\\c\/d\n)", kNothing),
                 ToolJson("é😀", kNothing), ToolJson("get", kNothing), ToolJson("get2", kNothing)});
  const std::string odd = writes_json_names() ? R"(a\"b\\c/d\n)" : "a\"b\\c/d\n";
  ExpectHeld(request,
             {CallOf("gét", "{}"), CallOf(odd, "{}"), CallOf("é😀", "{}"), CallOf("get", "{}"),
              CallOf("get2", "{}")},
             {CallOf(R"(g\u00e9t)", "{}"), CallOf("a", "{}"), CallOf("get3", "{}")});
  for (const char* name : {"gét", "a\"b\\c/d\n", "é😀", "get2"}) {
    v1::GenerateRequest forced = request;
    forced.mutable_chat()->set_forced_call(name);
    ExpectHeld(forced, {BehindArguments("{}") + end_},
               {CallOf("get", "{}"), BehindArguments(R"({"a": 1})") + end_});
  }
}

TEST_P(OutputStructureTest, OnlyAToolThatIsThereCanBeForced) {
  v1::GenerateRequest request = WithTools({ToolJson("get", kNothing), R"({"a": 1})"});
  request.mutable_chat()->set_forced_call("set");
  const auto status = StructureOr(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "chat.forced_call is \"set\"; wanted the name of one of chat.tools");
  EXPECT_EQ(FieldOf(status), "chat.forced_call");
}

TEST_P(OutputStructureTest, WrongSchemasOfToolsAreNamedByTheirPaths) {
  const auto status =
      StructureOr(
          WithTools(
              {ToolJson("get", R"({"pattern": "a"})", "false"),
               ToolJson("put", R"({"properties": {"a": {"type": "string", "pattern": "^^"}}})")}))
          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              StartsWith("chat.tools[1].function.parameters.properties.a.pattern is \"^^\"; "
                         "wanted it without ^ at its character 1"));
  EXPECT_EQ(FieldOf(status), "chat.tools[1].function.parameters");
  const auto no_object = StructureOr(WithTools({ToolJson("get", "[]")})).status();
  EXPECT_EQ(no_object.message(), "chat.tools[0].function.parameters is no JSON object; wanted one");
}

TEST_P(OutputStructureTest, AWrongSchemaIsNamedByItsField) {
  v1::GenerateRequest request = GetPutSet();
  request.set_json_schema(R"({"items": {"minimum": 5}})");
  const auto status = StructureOr(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), StartsWith("json_schema.items.minimum is 5; wanted"));
  EXPECT_EQ(FieldOf(status), "json_schema");
  request.set_json_schema("{\"a\": \xff}");
  EXPECT_EQ(StructureOr(request).status().message(), "json_schema is no JSON object; wanted one");
}

TEST_P(OutputStructureTest, SpecialTokensAreNeverAllowed) {
  v1::GenerateRequest forced = GetPutSet();
  forced.mutable_chat()->set_forced_call("");
  for (const v1::GenerateRequest& request : {GetPutSet(), forced}) {
    const auto matcher = *TheGrammars().Match(Structure(request));
    const auto mask = matcher->Allowed();
    ASSERT_TRUE(mask.ok()) << mask.status();
    ASSERT_FALSE(mask->empty());
    EXPECT_FALSE(Allows(*mask, WalkedTokenizer::kSpecial));
    EXPECT_TRUE(absl::IsInvalidArgument(matcher->Accept(WalkedTokenizer::kSpecial)));
    EXPECT_EQ(Allows(*mask, WalkedTokenizer::kEnd), !request.chat().has_forced_call());
  }
}

TEST(OutputStructureOfMistralTest, CallsMayHaveTheirSpecialTokens) {
  constexpr int32_t kCalls = WalkedTokenizer::kCallMark,
                    kArguments = WalkedTokenizer::kArgumentsMark;
  const std::vector<int32_t> text = *TheWalkedTokenizer().Encode("a ", {}),
                             name = *TheWalkedTokenizer().Encode("get", {}),
                             arguments = *TheWalkedTokenizer().Encode("{\"a\": 5}", {});
  const auto walk = [](const std::string& structure,
                       const std::vector<std::vector<int32_t>>& parts) {
    std::vector<int32_t> tokens;
    for (const auto& part : parts) tokens.insert(tokens.end(), part.begin(), part.end());
    tokens.push_back(WalkedTokenizer::kEnd);
    const auto matcher = TheGrammars().Match(structure);
    return matcher.ok() ? WalkTokens(tokens, **matcher) : matcher.status().ToString();
  };
  const auto structure_of = [](const v1::GenerateRequest& request, ToolSyntax syntax) {
    return *OutputStructure(request, syntax);
  };
  const std::string free = structure_of(GetPutSet(), ToolSyntax::kMistral);
  EXPECT_EQ(
      walk(
          free,
          {text, {kCalls}, name, {kArguments}, arguments, {kCalls}, name, {kArguments}, arguments}),
      "");
  EXPECT_THAT(walk(free, {{kCalls}, name, arguments}), StartsWith("not "));
  EXPECT_THAT(walk(free, {{kCalls}, name, {kArguments}, {kArguments}}), StartsWith("not "));
  v1::GenerateRequest forced = GetPutSet();
  forced.mutable_chat()->set_forced_call("");
  EXPECT_EQ(walk(structure_of(forced, ToolSyntax::kMistral), {name, {kArguments}, arguments}), "");
  // Those that have no place in it are never allowed, in a string neither.
  const std::vector<int32_t> quote = {'"'};
  const std::string list = structure_of(GetPutSet(), ToolSyntax::kMistralList);
  const std::string begin = "[{\"name\": \"get\", \"arguments\": {\"a\": 5}}]";
  EXPECT_EQ(walk(list, {{kCalls}, *TheWalkedTokenizer().Encode(begin, {})}), "");
  EXPECT_THAT(walk(list, {text, {kArguments}}), StartsWith("not "));
  const std::string json = *StructureOf(R"({"type": "string"})");
  EXPECT_EQ(walk(json, {quote, text, quote}), "");
  for (const int32_t token : {kCalls, kArguments}) {
    EXPECT_THAT(walk(json, {quote, {token}, quote}), StartsWith("not "));
  }
}

TEST(OutputStructureWithoutToolSyntaxTest, OnlyTheSchemaIsHeld) {
  v1::GenerateRequest request = GetPutSet();
  EXPECT_EQ(*OutputStructure(request, ToolSyntax::kNone), "");
  request.set_json_schema(kAnyJsonObject);
  const auto structure = OutputStructure(request, ToolSyntax::kNone);
  ASSERT_TRUE(structure.ok()) << structure.status();
  EXPECT_EQ(WalkWhole(*structure, R"({"a": [1]})"), "");
  EXPECT_THAT(WalkWhole(*structure, "<tool_call>\n{}\n</tool_call>"), StartsWith("not "));
  // The same as in a prompt.
  v1::GenerateRequest prompt;
  prompt.set_prompt("a");
  prompt.set_json_schema(kAnyJsonObject);
  EXPECT_EQ(*OutputStructure(prompt, ToolSyntax::kHermes), *structure);
}

}  // namespace
}  // namespace kvship
