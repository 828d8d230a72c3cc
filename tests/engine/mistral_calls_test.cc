#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/json_calls.h"
#include "tests/engine/read_calls.h"

namespace kvship {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Each syntax reads what models of the others write.
Answer Read(absl::string_view text) {
  const Answer answer = ReadEveryWay(ToolCallReader(ToolSyntax::kMistral, /*thinks=*/false), text);
  for (const ToolSyntax syntax : {ToolSyntax::kMistralList, ToolSyntax::kMistralSpacedList}) {
    EXPECT_EQ(ReadCut(ToolCallReader(syntax, /*thinks=*/false), text, {}), answer);
  }
  return answer;
}

TEST(MistralCalls, AreAListOrNamedOneByOne) {
  const Answer list = Read(
      R"([TOOL_CALLS] [{"name": "f", "arguments": {"a": "]}[ARGS]", "n": 1.50}, "id": "abcdefghi"}, {"name":"g"}])");
  EXPECT_EQ(list.text, "");
  EXPECT_THAT(list.calls, ElementsAre(R"(f({"a": "]}[ARGS]", "n": 1.50}))", "g({})"));
  const Answer named = Read(
      R"(I look. [TOOL_CALLS]get-it_2[ARGS]{"a": {"b": "}"}}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{} Done.)");
  EXPECT_EQ(named.text, "I look. Done.");
  EXPECT_THAT(named.calls, ElementsAre(R"(get-it_2({"a": {"b": "}"}}))", "now({})"));
  // Where a vocabulary has no token for the marks in between, or the list is one call.
  EXPECT_THAT(Read(R"([TOOL_CALLS]now{"a": 1})").calls, ElementsAre(R"(now({"a": 1}))"));
  EXPECT_THAT(Read(R"([TOOL_CALLS]{"name": "now", "arguments": {}})").calls,
              ElementsAre("now({})"));
}

TEST(MistralCalls, WhatIsNoCallIsTextWithoutTheMarks) {
  const std::pair<std::string, std::string> texts[] = {
      {"a [1] [", "a [1] ["},
      {"a [TOOL_CALLS] b", "a  b"},
      {"[TOOL_CALLS]", ""},
      {"[TOOL_CALLS][]", "[]"},
      {"[TOOL_CALLS][{\"name\": \"f\"", "[{\"name\": \"f\""},
      {"[TOOL_CALLS][{\"name\": \"f\"} x]", "[{\"name\": \"f\"} x]"},
      {"[TOOL_CALLS]f[ARGS]{\"a\": }", "f{\"a\": }"},
      {"[TOOL_CALLS]f[ARGS]{\"a\": 1", "f{\"a\": 1"},
      {"[TOOL_CALLS]f[ARGS][1]", "f[1]"},
      {"[TOOL_CALLS][ARGS]{}", "{}"},
      {"so [ARGS] and [CALL_ID] [TOOL_CAL", "so  and  [TOOL_CAL"}};
  for (const auto& [text, without] : texts) {
    const Answer answer = Read(text);
    EXPECT_EQ(answer.text, without) << text;
    EXPECT_THAT(answer.calls, IsEmpty()) << text;
  }
  const Answer mixed = Read(R"([TOOL_CALLS] no [TOOL_CALLS]f[ARGS]{} then)");
  EXPECT_EQ(mixed.text, " no then");
  EXPECT_THAT(mixed.calls, ElementsAre("f({})"));
}

TEST(MistralCalls, ThoughtsHaveNeitherCallsNorMarks) {
  const Answer answer = ReadEveryWay(ToolCallReader(ToolSyntax::kMistral, /*thinks=*/true),
                                     "I [TOOL_CALLS]f[ARGS]{}.</think>[TOOL_CALLS]g[ARGS]{}");
  EXPECT_EQ(answer.text, "I f{}.</think>");
  EXPECT_THAT(answer.calls, ElementsAre("g({})"));
}

TEST(MistralCalls, TextIsGivenAtOnce) {
  ToolCallReader reader(ToolSyntax::kMistral, /*thinks=*/false);
  EXPECT_EQ(reader.Add("One [").text, "One");
  EXPECT_EQ(reader.Add("1] [ARG").text, " [1]");
  EXPECT_EQ(reader.Add("S] ").text, " ");
  EXPECT_EQ(reader.Add("two").text, " two");
}

}  // namespace
}  // namespace kvship
