#include "engine/tool_call_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "tests/engine/read_calls.h"

namespace kvship {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Answer Read(ToolSyntax syntax, const std::string& text, const std::vector<size_t>& cuts = {},
            bool thinks = false) {
  return ReadCut(ToolCallReader(syntax, thinks), text, cuts);
}
Answer ReadHermes(const std::string& text) {
  return ReadEveryWay(ToolCallReader(ToolSyntax::kHermes, /*thinks=*/false), text);
}
Answer ReadLlama3(const std::string& text) {
  return ReadEveryWay(ToolCallReader(ToolSyntax::kLlama3, /*thinks=*/false), text);
}

TEST(ToolCallReader, FindsCallsBetweenTheirMarks) {
  const Answer answer = ReadHermes(
      "Let me see.\n<tool_call>\n{\"name\": \"now\", \"arguments\": "
      "{}}\n</tool_call>\n<tool_call>\n"
      R"({"arguments": {"a": "{\"}</", "n": 12345678901234567890123}, "name": "f"})"
      "\n</tool_call>\n");
  EXPECT_EQ(answer.text, "Let me see.");
  EXPECT_THAT(answer.calls,
              ElementsAre("now({})", R"(f({"a": "{\"}</", "n": 12345678901234567890123}))"));
  EXPECT_THAT(ReadHermes(R"(<tool_call>{"name": "now"}</tool_call>)").calls,
              ElementsAre("now({})"));
  // The model stopped a mark too early.
  EXPECT_THAT(ReadHermes("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n").calls,
              ElementsAre("now({})"));
}

TEST(ToolCallReader, WhatIsNoCallIsText) {
  for (const std::string text :
       {"", "no\n call \n", "a \n<tool_call>{}</tool_call> b", "a <tool_calls> b",
        "<tool_call>\nnow()\n</tool_call>", "<tool_call>{}",
        "<tool_call>{\"name\": \"\"}</tool_call>", "<tool_call>{\"name\": 1}</tool_call> b",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>",
        "a\n<tool_call>{\"name\": \"f\", \"argu", "</tool_call>", "<tool_ca",
        "{\"name\": \"f\"}"}) {
    const Answer answer = ReadHermes(text);
    EXPECT_EQ(answer.text, text);
    EXPECT_THAT(answer.calls, IsEmpty());
  }
  const Answer mixed =
      ReadHermes("<tool_call>x</tool_call> or <tool_call>{\"name\": \"f\"}</tool_call> then");
  EXPECT_EQ(mixed.text, "<tool_call>x</tool_call> or then");
  EXPECT_THAT(mixed.calls, ElementsAre("f({})"));
}

TEST(ToolCallReader, AStringOfACallMayHaveItsEndMark) {
  const std::string arguments = R"({"a": "\"</tool_call>\\</tool_call>", "b": ["</tool_call>"]})";
  const std::string call = R"({"name": "f", "arguments": )" + arguments + "}";
  for (const std::string end : {"\n</tool_call>", "</tool_call>", ""}) {
    const Answer answer = ReadHermes("Now: <tool_call>\n" + call + end);
    EXPECT_EQ(answer.text, "Now:");
    EXPECT_THAT(answer.calls, ElementsAre("f(" + arguments + ")"));
  }
  const Answer two = ReadHermes("<tool_call>" + call + "</tool_call>\n<tool_call>" + call +
                                "</tool_call> and </tool_call>");
  EXPECT_EQ(two.text, " and </tool_call>");
  EXPECT_THAT(two.calls, ElementsAre("f(" + arguments + ")", "f(" + arguments + ")"));
}

TEST(ToolCallReader, AStringThatDoesNotEndHidesNoOtherCall) {
  for (const std::string broken :
       {"<tool_call>{\"name\": \"f</tool_call>", "<tool_call>\n{\"name\": \"f}\n</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call>"}) {
    const Answer answer = ReadHermes(broken + "\n<tool_call>{\"name\": \"g\"}</tool_call> x");
    EXPECT_EQ(answer.text, broken + " x");
    EXPECT_THAT(answer.calls, ElementsAre("g({})"));
    EXPECT_EQ(ReadHermes(broken + " x").text, broken + " x");
  }
  // Strings have no line ends, so that this text need not wait for what may come.
  ToolCallReader reader(ToolSyntax::kHermes, /*thinks=*/false);
  EXPECT_EQ(reader.Add("<tool_call>{\"name\": \"f\n</tool_call> x").text,
            "<tool_call>{\"name\": \"f\n</tool_call> x");
}

TEST(ToolCallReader, TextIsGivenAtOnce) {
  ToolCallReader reader(ToolSyntax::kHermes, /*thinks=*/false);
  EXPECT_EQ(reader.Add("One ").text, "One");
  EXPECT_EQ(reader.Add("<two").text, " <two");
  EXPECT_EQ(reader.Add("> <tool").text, ">");
  const auto found = reader.Add("_call>{\"name\": \"f\"}</tool_call>");
  EXPECT_EQ(found.text, "");
  EXPECT_EQ(found.calls.size(), 1u);
}

TEST(ToolCallReader, NothingInThoughtsIsACall) {
  const std::string text =
      "<think>\nI could <tool_call>{\"name\": \"f\"}</tool_call>.\n</think>\n\n"
      "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
  const Answer answer = Read(ToolSyntax::kHermes, text, {}, /*thinks=*/true);
  EXPECT_EQ(answer.text, text.substr(0, text.find("\n\n")));
  EXPECT_THAT(answer.calls, ElementsAre("g({})"));
  EXPECT_EQ(Read(ToolSyntax::kHermes, "<think> </thi", {}, true).text, "<think> </thi");
}

TEST(ToolCallReader, MarksThatAreSpecialTokensAreNotInTheText) {
  const std::vector<std::string> marks = {"<tool_call>", "</tool_call>"};
  const auto read = [&marks](ToolSyntax syntax, bool thinks, absl::string_view text) {
    return ReadEveryWay(ToolCallReader(syntax, thinks, {}, marks), text);
  };
  const Answer thinking = read(
      ToolSyntax::kHermes, true,
      "<think>A <tool_call>{}</tool_call> b.</think>\n<tool_call>{\"name\": \"f\"}</tool_call>");
  EXPECT_EQ(thinking.text, "<think>A {} b.</think>");
  EXPECT_THAT(thinking.calls, ElementsAre("f({})"));
  for (const auto& [text, without] : std::vector<std::pair<std::string, std::string>>{
           {"a <tool_call>x</tool_call> b", "a x b"},
           {"a </tool_call> b </tool_ca", "a  b </tool_ca"},
           {"<tool_call>{\"name\": \"f\"", "{\"name\": \"f\""},
           {"<tool_call>", ""}}) {
    for (const ToolSyntax syntax : {ToolSyntax::kHermes, ToolSyntax::kQwenXml}) {
      const Answer answer = read(syntax, false, text);
      EXPECT_EQ(answer.text, without) << text;
      EXPECT_THAT(answer.calls, IsEmpty()) << text;
    }
  }
  const Answer xml =
      read(ToolSyntax::kQwenXml, false,
           "So: <tool_call>\n<function=f>\n</function>\n</tool_call></tool_call> ok");
  EXPECT_EQ(xml.text, "So: ok");
  EXPECT_THAT(xml.calls, ElementsAre("f({})"));
}

TEST(ToolCallReader, ACallOfLlamasIsTheWholeAnswer) {
  EXPECT_THAT(ReadLlama3("\n{\"name\": \"f\", \"parameters\": {\"a\": \"}\"}} ").calls,
              ElementsAre("f({\"a\": \"}\"})"));
  const Answer two = ReadLlama3(R"({"name": "f", "parameters": {}}; {"name":"g","parameters":{}})");
  EXPECT_EQ(two.text, "");
  EXPECT_THAT(two.calls, ElementsAre("f({})", "g({})"));
  for (const std::string text :
       {"", " ", "Hi {", " {\"name\": \"f\"} ", "{\"name\": \"f\", \"parameters\": {}} as JSON",
        "{\"name\": \"f\", \"parameters\": {}", "{\"name\": \"f\", \"parameters\": []}",
        "; {\"name\": \"f\", \"parameters\": {}}"}) {
    const Answer answer = ReadLlama3(text);
    EXPECT_EQ(answer.text, text);
    EXPECT_THAT(answer.calls, IsEmpty());
  }
}

// However it is cut, an answer is read alike: answers made of what marks and calls consist of.
TEST(ToolCallReader, CutsMakeNoDifference) {
  const std::string parts[] = {"<tool_call>",
                               "</tool_call>",
                               "<think>",
                               "</think>",
                               "{\"name\": \"f\"",
                               ", \"arguments\": {}",
                               ", \"parameters\": {}",
                               "}",
                               "\n",
                               " ",
                               ";",
                               "x",
                               "<",
                               "\"",
                               "{",
                               "[",
                               "]",
                               "<function=f>",
                               "</function>",
                               "<parameter=a>",
                               "</parameter>",
                               "[TOOL_CALLS]",
                               "[ARGS]",
                               "[CALL_ID]"};
  uint64_t num_drawn = 0;
  const auto below = [&num_drawn](size_t n) { return RandomBits(1, num_drawn++) % n; };
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (uint64_t n = below(12); n > 0; --n) text += parts[below(std::size(parts))];
    std::vector<size_t> cuts;
    for (size_t i = 0; i < text.size(); ++i) {
      if (below(3) == 0) cuts.push_back(i);
    }
    for (const ToolSyntax syntax : kToolSyntaxes) {
      const bool thinks = round % 2 == 0;
      EXPECT_EQ(Read(syntax, text, cuts, thinks), Read(syntax, text, {}, thinks)) << text;
    }
  }
}

}  // namespace
}  // namespace kvship
