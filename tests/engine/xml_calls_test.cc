#include "engine/xml_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/read_calls.h"

namespace kvship {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const std::vector<std::string> kTools = {
    R"({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties":
        {"s": {"type": "string"}, "i": {"type": "integer"}, "l": {"type": "array"},
         "n": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "any": {}}}}})"};

Answer Read(absl::string_view text, bool thinks = false) {
  return ReadEveryWay(ToolCallReader(ToolSyntax::kQwenXml, thinks, kTools), text);
}

TEST(XmlCalls, ArgumentsAreOfTheTypesOfTheirSchema) {
  const Answer answer = Read(
      "Let me see.\n\n<tool_call>\n<function=f>\n<parameter=s>\n5\n</parameter>\n<parameter=i>\n"
      "12345678901234567890123\n</parameter>\n<parameter=l>\n[1.50, "
      "\"</parameter>\\n</function>\"]\n"
      "</parameter>\n<parameter=n>\nNone\n</parameter>\n<parameter=any>\n{\"a\": 1}\n</parameter>\n"
      "<parameter=other>\n5\n</parameter>\n</function>\n</tool_call>\n");
  EXPECT_EQ(answer.text, "Let me see.");
  EXPECT_THAT(answer.calls, ElementsAre(R"(f({"s": "5", "i": 12345678901234567890123, )"
                                        R"("l": [1.50, "</parameter>\n</function>"], "n": null, )"
                                        R"("any": "{\"a\": 1}", "other": "5"}))"));
}

TEST(XmlCalls, ALineEndOnEitherSideIsNoneOfTheValue) {
  const auto value = [](const std::string& text) {
    const Answer answer = Read("<tool_call>\n<function=f>\n<parameter=s>" + text +
                               "</parameter>\n</function>\n</tool_call>");
    return answer.calls.size() == 1 ? answer.calls[0] : answer.text;
  };
  EXPECT_EQ(value("\nx\n"), R"(f({"s": "x"}))");
  EXPECT_EQ(value("\n\n  x\n \n\n"), R"(f({"s": "\n  x\n \n"}))");
  EXPECT_EQ(value(" x "), R"(f({"s": " x "}))");
  EXPECT_EQ(value("\n\n"), R"(f({"s": ""}))");
  EXPECT_EQ(value("\n"), R"(f({"s": ""}))");
  EXPECT_EQ(value(""), R"(f({"s": ""}))");
}

TEST(XmlCalls, AFileMayHaveTheMarks) {
  const std::string file =
      "<parameter=s>\\n</parameter> \"\\\\ </tool_call> <function=g></function>\n";
  const Answer answer = Read("<tool_call>\n<function=f>\n<parameter=s>\n" + file +
                             "\n</parameter>\n</function>\n</tool_call>");
  EXPECT_EQ(answer.text, "");
  EXPECT_THAT(answer.calls,
              ElementsAre("f({\"s\": \"<parameter=s>\\\\n</parameter> \\\"\\\\\\\\ </tool_call> "
                          "<function=g></function>\\n\"})"));
}

TEST(XmlCalls, MarksAroundTheFunctionMayBeLeftOut) {
  EXPECT_THAT(Read("<function=now>\n</function>\n</tool_call>").calls, ElementsAre("now({})"));
  EXPECT_EQ(Read("<function=now>\n</function>\n</tool_call>").text, "");
  EXPECT_THAT(Read("<function=now></function>").calls, ElementsAre("now({})"));
  EXPECT_THAT(Read("<tool_call><function=now></function>\n").calls, ElementsAre("now({})"));
  EXPECT_EQ(Read("<function=now></function>\n</tool_c").text, "");
  const Answer two = Read("a <function=f>\n</function> <function=g>\n</function> b");
  EXPECT_EQ(two.text, "a b");
  EXPECT_THAT(two.calls, ElementsAre("f({})", "g({})"));
}

TEST(XmlCalls, WhatIsNoCallIsText) {
  for (const std::string text :
       {"a <tool_call> b", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "use <function=f> here",
        "<function=>\n</function>", "<function=f\n>", "<tool_call>\n<function=f>\n", "a\n<functi",
        "<function=f>\n<parameter=s>\n5\n</function>",
        "<function=f><parameter=>x</parameter></function>",
        "<function=f>\n<parameter=s>\n5\n</parameter>\n</tool_call>", "a <tool_call>",
        "</function>", "<function=f>\n<parameter=l>\n[1\n</parameter>",
        "<function=f>\n<parameter=s>x</parameter> x"}) {
    const Answer answer = Read(text);
    EXPECT_EQ(answer.text, text);
    EXPECT_THAT(answer.calls, IsEmpty());
  }
  const Answer mixed = Read("<tool_call> no <function=no> <function=f>\n</function> then");
  EXPECT_EQ(mixed.text, "<tool_call> no <function=no> then");
  EXPECT_THAT(mixed.calls, ElementsAre("f({})"));
}

TEST(XmlCalls, AListThatDoesNotEndIsTextOfItsOwn) {
  EXPECT_THAT(Read("<function=f>\n<parameter=l>\n[1, 2\n</parameter>\n</function>").calls,
              ElementsAre(R"(f({"l": "[1, 2"}))"));
  EXPECT_THAT(Read("<function=f>\n<parameter=l>\n[1] and so on\n</parameter>\n</function>").calls,
              ElementsAre(R"(f({"l": "[1] and so on"}))"));
}

TEST(XmlCalls, NothingInThoughtsIsACall) {
  const Answer answer =
      Read("<function=f></function>\n</think>\n\n<function=g>\n</function>", /*thinks=*/true);
  EXPECT_EQ(answer.text, "<function=f></function>\n</think>");
  EXPECT_THAT(answer.calls, ElementsAre("g({})"));
}

TEST(XmlCalls, TextIsGivenAtOnce) {
  ToolCallReader reader(ToolSyntax::kQwenXml, /*thinks=*/false, kTools);
  EXPECT_EQ(reader.Add("if a <").text, "if a");
  EXPECT_EQ(reader.Add("b").text, " <b");
  EXPECT_EQ(reader.Add(" <function=f> ").text, "");
  EXPECT_EQ(reader.Add("x").text, " <function=f> x");
}

}  // namespace
}  // namespace kvship
