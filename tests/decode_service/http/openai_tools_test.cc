#include "decode_service/http/openai_tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "decode_service/http/openai_request.h"
#include "decode_service/http/openai_tool_calls.h"
#include "rpc/errors.h"
#include "tests/decode_service/http/expect_refused.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

absl::StatusOr<OpenAiRequest> Read(const std::string& messages, const std::string& fields = "") {
  return ReadOpenAiRequest(OpenAiApi::kChat,
                           absl::StrCat(R"({"model":"m","messages":[)", messages, "]", fields, "}"),
                           /*context_tokens=*/0, /*drawn_seed=*/1);
}
absl::StatusOr<OpenAiRequest> ReadTools(const std::string& fields) {
  return Read(R"({"role":"user","content":"Hi"})", fields);
}

const v1::ChatMessages& ChatOf(const absl::StatusOr<OpenAiRequest>& read) {
  EXPECT_TRUE(read.ok()) << read.status();
  return read->prompts[0].chat();
}

// An assistant's message with calls of these ids.
std::string Calls(const std::vector<std::string>& ids) {
  std::string calls;
  for (const std::string& id : ids) {
    absl::StrAppend(&calls, calls.empty() ? "" : ",", R"({"id":")", id,
                    R"(","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}})");
  }
  return absl::StrCat(R"({"role":"assistant","content":null,"tool_calls":[)", calls, "]}");
}
std::string Answer(const std::string& id) {
  return absl::StrCat(R"(,{"role":"tool","tool_call_id":")", id, R"(","content":"to )", id, "\"}");
}

TEST(OpenAiToolsTest, ToolsArriveInTheOrderOfTheirFields) {
  const std::string tool =
      R"({"type":"function","function":{"name":"get-it_2","description":"é","strict":true,)"
      R"("parameters":{"type":"object","properties":{"b":{},"a":{"minimum":0.5}}}}})";
  const auto request = ReadTools(R"(,"tools":[)" + tool + R"(],"tool_choice":"auto")");
  EXPECT_THAT(ChatOf(request).tools(), ElementsAre(tool));
  EXPECT_FALSE(ChatOf(request).single_call());
  EXPECT_TRUE(ChatOf(ReadTools(R"(,"parallel_tool_calls":false)")).single_call());
}

TEST(OpenAiToolsTest, AModelThatShallCallNoneIsToldOfNone) {
  for (const char* fields :
       {R"(,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none")",
        R"(,"tools":[],"tool_choice":"auto")", R"(,"tools":null,"tool_choice":null)", ""}) {
    EXPECT_THAT(ChatOf(ReadTools(fields)).tools(), IsEmpty());
  }
}

TEST(OpenAiToolsTest, WrongToolsAreNamed) {
  const auto function = [](const std::string& function) {
    return ReadTools(absl::StrCat(R"(,"tools":[{"type":"function","function":)", function, "}]"));
  };
  ExpectRefused(ReadTools(R"(,"tools":{})"), "tools", "wanted a list of at most 128 tools");
  ExpectRefused(ReadTools(R"(,"tools":[7])"), "tools[0]", "tools[0] is 7; wanted an object");
  ExpectRefused(ReadTools(R"(,"tools":[{"type":"function"}])"), "tools[0].function", "missing");
  ExpectRefused(ReadTools(R"(,"tools":[{"type":"web_search"}])"), "tools[0].type", "web_search");
  ExpectRefused(ReadTools(R"(,"tools":[{"function":{"name":"f"}}])"), "tools[0].type", "missing");
  ExpectRefused(function("{}"), "tools[0].function.name", "missing");
  for (const std::string& name : {std::string(), std::string("a b"), std::string(65, 'a')}) {
    ExpectRefused(function(absl::StrCat(R"({"name":")", name, "\"}")), "tools[0].function.name",
                  "wanted 1 to 64 letters, digits, _ and -");
  }
  ExpectRefused(function(R"({"name":"f","parameters":[]})"), "tools[0].function.parameters",
                "a JSON schema");
  ExpectRefused(function(R"({"name":"f","x":1})"), "tools[0].function.x", "x");
  std::string many = R"({"type":"function","function":{"name":"f"}})";
  for (int i = 0; i < 128; ++i) many += R"(,{"type":"function","function":{"name":"f"}})";
  ExpectRefused(ReadTools(R"(,"tools":[)" + many + "]"), "tools", "at most 128 tools");
}

TEST(OpenAiToolsTest, ACallMayBeForced) {
  const auto choose = [](const std::string& choice) {
    return ReadTools(R"(,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":)" +
                     choice);
  };
  EXPECT_FALSE(ChatOf(choose(R"("auto")")).has_forced_call());
  EXPECT_TRUE(ChatOf(choose(R"("required")")).has_forced_call());
  EXPECT_EQ(ChatOf(choose(R"("required")")).forced_call(), "");
  EXPECT_EQ(ChatOf(choose(R"({"type":"function","function":{"name":"f"}})")).forced_call(), "f");
  ExpectRefused(choose(R"({"type":"function","function":{"name":"g"}})"),
                "tool_choice.function.name", R"("g"; wanted that of one of the tools)");
  ExpectRefused(choose(R"({"type":"allowed_tools"})"), "tool_choice.type", "allowed_tools");
  ExpectRefused(choose(R"("f")"), "tool_choice",
                R"(wanted "auto", "none", "required", or an object)");
  ExpectRefused(ReadTools(R"(,"tool_choice":"required")"), "tool_choice",
                "\"auto\" or \"none\" where there are no tools");
}

TEST(OpenAiToolsTest, MessagesHaveCallsInPythonsSpelling) {
  const auto request = Read(Calls({"x"}) + Answer("x"));
  const v1::ChatMessages& chat = ChatOf(request);
  EXPECT_EQ(chat.messages(0).content(), "");
  ASSERT_EQ(chat.messages(0).tool_calls_size(), 1);
  EXPECT_EQ(chat.messages(0).tool_calls(0).name(), "f");
  EXPECT_EQ(chat.messages(0).tool_calls(0).arguments(), R"({"a": 1})");
  EXPECT_EQ(chat.messages(1).role(), "tool");
  EXPECT_EQ(chat.messages(1).content(), "to x");
}

TEST(OpenAiToolsTest, WhatCameOfCallsStandsInTheirOrder) {
  const auto contents = [](const std::string& messages) {
    const auto request = Read(messages);
    std::vector<std::string> contents;
    for (const v1::ChatMessage& message : ChatOf(request).messages()) {
      contents.push_back(message.content());
    }
    return contents;
  };
  const std::string call = Calls({"a", "b", "c"});
  EXPECT_THAT(contents(call + Answer("c") + Answer("a") + Answer("b")),
              ElementsAre("", "to a", "to b", "to c"));
  EXPECT_THAT(contents(call + Answer("b") + "," + Calls({"a", "b"}) + Answer("b") + Answer("a")),
              ElementsAre("", "to b", "", "to a", "to b"));
  // Over another message none goes.
  EXPECT_THAT(contents(call + Answer("c") + R"(,{"role":"user","content":"u"})" + Answer("b") +
                       Answer("a")),
              ElementsAre("", "to c", "u", "to a", "to b"));
}

TEST(OpenAiToolsTest, NamesOfAgentsAndToolsAreTaken) {
  const std::string named = R"({"role":"assistant","name":"agent","content":"Hi"})";
  EXPECT_TRUE(Read(named).ok());
  ExpectRefused(Read(R"({"role":"assistant","name":7,"content":"Hi"})"), "messages[0].name", "7");
}

TEST(OpenAiToolsTest, WhatOpenAisClientAddsToAnAnswerIsNotLookedAt) {
  const std::string added =
      R"("parsed":{"a":1},"annotations":[],"refusal":null,"provider_specific_fields":{})";
  const auto request =
      Read(R"({"role":"assistant","content":"Hi",)" + added +
           R"(,"tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{}",)"
           R"("parsed_arguments":{}},"index":0}]})");
  EXPECT_EQ(ChatOf(request).messages(0).content(), "Hi");
  EXPECT_EQ(ChatOf(request).messages(0).tool_calls(0).arguments(), "{}");
  EXPECT_TRUE(Read(R"({"role":"assistant","content":"Hi","refusal":"No","parsed":"x"})").ok());
  ExpectRefused(Read(R"({"role":"user","content":"Hi",)" + added + "}"), "messages[0].parsed",
                "parsed");
}

TEST(OpenAiToolsTest, ARefusalStandsForContent) {
  for (const char* content : {"", R"("content":null,)", R"("content":"",)"}) {
    const auto request =
        Read(absl::StrCat(R"({"role":"assistant",)", content, R"("refusal":"I cannot."})"));
    EXPECT_EQ(ChatOf(request).messages(0).content(), "I cannot.");
  }
}

TEST(OpenAiToolsTest, WrongCallsAreNamed) {
  const auto call = [](const std::string& call) {
    return Read(R"({"role":"assistant","tool_calls":[)" + call + "]}");
  };
  const auto with_arguments = [&call](const std::string& arguments) {
    return call(absl::StrCat(R"({"id":"x","type":"function","function":{"name":"f","arguments":)",
                             arguments, "}}"));
  };
  EXPECT_TRUE(with_arguments(R"("{}")").ok());
  EXPECT_EQ(ChatOf(*with_arguments(R"("")")).messages(0).tool_calls(0).arguments(), "{}");
  for (const char* arguments : {R"("[]")", R"("{")", "{}"}) {
    EXPECT_EQ(FieldOf(with_arguments(arguments).status()),
              "messages[0].tool_calls[0].function.arguments");
  }
  ExpectRefused(call(R"({"type":"function","function":{"name":"f","arguments":"{}"}})"),
                "messages[0].tool_calls[0].id", "missing");
  ExpectRefused(Read(Calls({"a", "a"})), "messages[0].tool_calls[1].id",
                R"("a"; wanted an id that no other call of the message has)");
  ExpectRefused(Read(R"({"role":"assistant","tool_calls":[]})"), "messages[0].content", "missing");
  ExpectRefused(Read(R"({"role":"user","content":"","tool_calls":[]})"), "messages[0].tool_calls",
                "tool_calls");
  const std::string wanted = "wanted the id of a call in the assistant's last message";
  ExpectRefused(Read(Calls({"a"}) + Answer("b")), "messages[1].tool_call_id", "\"b\"; " + wanted);
  ExpectRefused(Read(Calls({"a"}) + Answer("a") + Answer("a")), "messages[2].tool_call_id", wanted);
  ExpectRefused(Read(Calls({"a"}) + Answer("a") + "," + Calls({"b"}) + Answer("a")),
                "messages[3].tool_call_id", wanted);
  ExpectRefused(Read(R"({"role":"tool","content":"x"})"), "messages[0].tool_call_id", "missing");
}

TEST(OpenAiToolCallsTest, CallsAreGivenOnceToAStreamAndWholeToAMessage) {
  OpenAiToolCalls calls(ToolCallReader(ToolSyntax::kHermes, false), "7", SIZE_MAX);
  EXPECT_EQ(calls.Add("Hm. <tool_call>{\"name\": \"f\"}</tool_call><tool"), "Hm.");
  const auto first = OpenAiToolCalls::Json::parse(
      R"([{"index": 0, "id": "call_7_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}])");
  EXPECT_EQ(calls.TakeNew(), first);
  EXPECT_FALSE(calls.has_new());
  EXPECT_EQ(calls.Add("_call>{\"name\": \"g\"}"), "");
  EXPECT_EQ(calls.Finish(), "");
  EXPECT_EQ(calls.TakeNew()[0]["id"], "call_7_1");
  ASSERT_EQ(calls.all().size(), 2u);
  EXPECT_EQ(
      calls.all()[1],
      OpenAiToolCalls::Json::parse(
          R"({"id": "call_7_1", "type": "function", "function": {"name": "g", "arguments": "{}"}})"));
}

TEST(OpenAiToolCallsTest, PastTheMostTheyAreLeftOut) {
  OpenAiToolCalls calls(ToolCallReader(ToolSyntax::kHermes, false), "7", 1);
  const std::string call = "<tool_call>{\"name\": \"f\"}</tool_call>";
  EXPECT_EQ(calls.Add(call + call) + calls.Finish(), "");
  EXPECT_EQ(calls.all().size(), 1u);
}

}  // namespace
}  // namespace kvship
