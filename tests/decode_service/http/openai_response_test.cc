#include "decode_service/http/openai_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "decode_service/http/openai_error.h"
#include "rpc/errors.h"
#include "tests/decode_service/fake_tokenizer.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Json = nlohmann::json;

// Tokens 0 and 1 are the halves of "é", 2 is "a", 3 is special.
class HalvesTokenizer final : public FakeTokenizer {
 public:
  absl::string_view TokenBytes(int32_t id) const override {
    constexpr absl::string_view kBytes[] = {"\xc3", "\xa9", "a", "<end>"};
    return kBytes[id];
  }
  bool IsSpecial(int32_t id) const override { return id == 3; }
  size_t vocab_tokens() const override { return 4; }
};

const HalvesTokenizer kTokenizer;

OpenAiRequest Request(OpenAiApi api) {
  OpenAiRequest request;
  request.api = api;
  request.prompts.resize(1);
  return request;
}

OpenAiResponse ResponseTo(const OpenAiRequest& request, ToolSyntax syntax = ToolSyntax::kNone) {
  return OpenAiResponse(request, {.id = "1", .created = 5, .model = "m", .fingerprint = "fp"},
                        &kTokenizer, ToolCallReader(syntax, /*thinks=*/false));
}

v1::GenerateOutput Output(const std::string& text, const std::vector<uint32_t>& ids) {
  v1::GenerateOutput output;
  output.set_text(text);
  for (const uint32_t id : ids) {
    v1::OutputToken& token = *output.add_tokens();
    token.set_token_id(id);
    token.set_logprob(-0.5f);
    v1::TokenLogprob& top = *token.add_top();
    top.set_token_id(2);
    top.set_logprob(-INFINITY);
  }
  return output;
}

v1::GenerateReport Report(v1::GenerateReport::FinishReason reason) {
  v1::GenerateReport report;
  report.set_finish_reason(reason);
  report.mutable_usage()->set_prompt_tokens(3);
  report.mutable_usage()->set_output_tokens(4);
  report.mutable_usage()->set_reused_tokens(2);
  report.mutable_kv()->set_kept_tokens(2);
  report.mutable_kv()->set_uncompressed_bytes(900);
  report.mutable_kv()->set_shipped_bytes(300);
  report.mutable_timing()->set_total_ms(8);
  return report;
}

// Of an answer with one choice.
std::string WholeAfter(OpenAiResponse& response, const v1::GenerateReport& report) {
  response.End(0, report);
  return response.Whole();
}

// The objects of a stream's events, the end's mark as the string "[DONE]".
std::vector<Json> Objects(const std::string& events) {
  std::vector<Json> objects;
  for (absl::string_view event : absl::StrSplit(events, "\n\n", absl::SkipEmpty())) {
    EXPECT_TRUE(absl::ConsumePrefix(&event, "data: ")) << event;
    objects.push_back(event == "[DONE]" ? Json("[DONE]") : Json::parse(event));
  }
  return objects;
}

constexpr auto kEnd = v1::GenerateReport::FINISH_REASON_END;
constexpr auto kLength = v1::GenerateReport::FINISH_REASON_LENGTH;

TEST(OpenAiResponseTest, AWholeChatAnswerHasMessageUsageAndFinishReason) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kChat));
  response.Add(0, Output("Hel", {2}));
  response.Add(0, Output("lo", {2}));
  EXPECT_EQ(Json::parse(WholeAfter(response, Report(kEnd))), Json::parse(R"({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m",
    "system_fingerprint": "fp",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": null},
                 "logprobs": null, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
              "prompt_tokens_details": {"cached_tokens": 2}}})"));
}

TEST(OpenAiResponseTest, AWholeCompletionHasItsText) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kCompletions));
  response.Add(0, Output("Hello", {2}));
  const Json whole = Json::parse(WholeAfter(response, Report(kLength)));
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["choices"],
            Json::parse(
                R"([{"index": 0, "text": "Hello", "logprobs": null, "finish_reason": "length"}])"));
}

TEST(OpenAiResponseTest, AChatStreamNamesTheRoleOnceAndEndsWithTheReason) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kChat));
  std::string events = response.Event(0, Output("Hel", {2}));
  events += response.Event(0, Output("lo", {2})) + response.LastEvents(0, Report(kEnd));
  const std::vector<Json> objects = Objects(events);
  ASSERT_EQ(objects.size(), 4u);
  EXPECT_EQ(objects[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(objects[0]["choices"][0]["delta"],
            Json::parse(R"({"role": "assistant", "content": "Hel"})"));
  EXPECT_EQ(objects[1]["choices"][0]["delta"], Json::parse(R"({"content": "lo"})"));
  EXPECT_EQ(objects[1]["choices"][0]["finish_reason"], nullptr);
  EXPECT_EQ(objects[2]["choices"][0]["delta"], Json::object());
  EXPECT_EQ(objects[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_FALSE(objects[2].contains("usage"));
  EXPECT_EQ(objects[3], "[DONE]");
}

TEST(OpenAiResponseTest, UsageComesInAChunkOfItsOwnAndIsNullBefore) {
  OpenAiRequest request = Request(OpenAiApi::kCompletions);
  request.include_usage = true;
  OpenAiResponse response = ResponseTo(request);
  const std::vector<Json> objects =
      Objects(response.Event(0, Output("a", {2})) + response.LastEvents(0, Report(kEnd)));
  ASSERT_EQ(objects.size(), 4u);
  EXPECT_EQ(objects[0]["usage"], nullptr);
  EXPECT_EQ(objects[1]["usage"], nullptr);
  EXPECT_THAT(objects[2]["choices"], IsEmpty());
  EXPECT_EQ(objects[2]["usage"]["total_tokens"], 7);
}

TEST(OpenAiResponseTest, TheReportIsInTheLastObject) {
  for (const bool include_usage : {false, true}) {
    OpenAiRequest request = Request(OpenAiApi::kChat);
    request.report = true;
    request.include_usage = include_usage;
    OpenAiResponse response = ResponseTo(request);
    const std::vector<Json> objects = Objects(response.LastEvents(0, Report(kEnd)));
    const Json& last = objects[objects.size() - 2];
    EXPECT_EQ(last["kvship"]["kv"]["ratio"], 3.0);
    EXPECT_EQ(last["kvship"]["kv"]["kept_tokens"], 2.0);
    EXPECT_EQ(last["kvship"]["timing"]["total_ms"], 8.0);
    EXPECT_EQ(Json::parse(WholeAfter(response, Report(kEnd)))["kvship"], last["kvship"]);
    EXPECT_EQ(objects[0].contains("kvship"), !include_usage);
  }
}

constexpr char kTextAndCall[] =
    "Hm.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";

TEST(OpenAiResponseTest, AWholeAnswerHasItsToolCallsBesideItsText) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kChat), ToolSyntax::kHermes);
  response.Add(0, Output(kTextAndCall, {2}));
  const Json choice = Json::parse(WholeAfter(response, Report(kEnd)))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"],
            Json::parse(R"({"role": "assistant", "content": "Hm.", "refusal": null,
      "tool_calls": [{"id": "call_1_0_0", "type": "function",
                      "function": {"name": "f", "arguments": "{}"}}]})"));
}

TEST(OpenAiResponseTest, AnAnswerOfToolCallsAloneHasNoContent) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kChat), ToolSyntax::kLlama3);
  response.Add(0, Output(R"({"name": "f", "parameters": {}})", {2}));
  const Json choice = Json::parse(WholeAfter(response, Report(kEnd)))["choices"][0];
  EXPECT_EQ(choice["message"]["content"], nullptr);
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 1u);
}

TEST(OpenAiResponseTest, ACallThatWasCutOffIsText) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kChat), ToolSyntax::kHermes);
  response.Add(0, Output("<tool_call>\n{\"name\": \"f\"", {2}));
  const Json choice = Json::parse(WholeAfter(response, Report(kLength)))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["message"]["content"], "<tool_call>\n{\"name\": \"f\"");
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
}

TEST(OpenAiResponseTest, AStreamHasACallInOneChunkAndWhatWasHeldBackBeforeItsEnd) {
  OpenAiResponse response = ResponseTo(Request(OpenAiApi::kChat), ToolSyntax::kHermes);
  std::string events;
  for (const char c : absl::string_view(kTextAndCall)) {
    events += response.Event(0, Output(std::string(1, c), {2}));
  }
  events += response.Event(0, Output(" <tool", {2}));
  events += response.LastEvents(0, Report(kEnd));
  std::vector<Json> choices;
  for (const Json& object : Objects(events)) {
    if (object.is_object()) choices.push_back(object["choices"][0]);
  }
  ASSERT_EQ(choices.size(), 6u) << "three characters, a call, text, and the end";
  EXPECT_EQ(choices[0]["delta"], Json::parse(R"({"role": "assistant", "content": "H"})"));
  EXPECT_EQ(choices[3]["delta"], Json::parse(R"({"tool_calls": [{"index": 0, "id": "call_1_0_0",
      "type": "function", "function": {"name": "f", "arguments": "{}"}}]})"));
  EXPECT_EQ(choices[4]["delta"], Json::parse(R"({"content": " <tool"})"));
  EXPECT_EQ(choices[4]["finish_reason"], nullptr);
  EXPECT_EQ(choices[5]["delta"], Json::object());
  EXPECT_EQ(choices[5]["finish_reason"], "tool_calls");
}

TEST(OpenAiResponseTest, ChoicesStandInOrderAndAPromptIsCountedOnce) {
  OpenAiRequest request = Request(OpenAiApi::kCompletions);
  request.prompts.resize(2);
  request.choices_per_prompt = 2;
  OpenAiResponse response = ResponseTo(request);
  for (const size_t choice : {3, 1, 0, 2}) {
    response.Add(choice, Output(absl::StrCat("of ", choice), {2}));
    response.End(choice, Report(choice == 1 ? kLength : kEnd));
  }
  const Json whole = Json::parse(response.Whole());
  ASSERT_EQ(whole["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(whole["choices"][i]["index"], i);
    EXPECT_EQ(whole["choices"][i]["text"], absl::StrCat("of ", i));
    EXPECT_EQ(whole["choices"][i]["finish_reason"], i == 1 ? "length" : "stop");
  }
  EXPECT_EQ(whole["usage"], Json::parse(R"({"prompt_tokens": 6, "completion_tokens": 16,
      "total_tokens": 22, "prompt_tokens_details": {"cached_tokens": 4}})"));
}

TEST(OpenAiResponseTest, AStreamOfChoicesEndsWithTheLastOfThem) {
  OpenAiRequest request = Request(OpenAiApi::kChat);
  request.choices_per_prompt = 2;
  request.include_usage = true;
  OpenAiResponse response = ResponseTo(request);
  std::string events = response.Event(1, Output("b", {2}));
  events += response.LastEvents(1, Report(kEnd));
  const std::vector<Json> first = Objects(events);
  ASSERT_EQ(first.size(), 2u) << "the other choice goes on";
  EXPECT_EQ(first[0]["choices"][0]["index"], 1);
  EXPECT_EQ(first[1]["choices"][0]["finish_reason"], "stop");
  events = response.Event(0, Output("a", {2}));
  events += response.LastEvents(0, Report(kLength));
  const std::vector<Json> last = Objects(events);
  ASSERT_EQ(last.size(), 4u);
  EXPECT_EQ(last[0]["choices"][0]["delta"], Json::parse(R"({"role": "assistant", "content": "a"})"))
      << "each has its role";
  EXPECT_EQ(last[1]["choices"][0]["index"], 0);
  EXPECT_EQ(last[1]["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(last[2]["usage"]["total_tokens"], 3 + 2 * 4);
  EXPECT_EQ(last[3], "[DONE]");
}

TEST(OpenAiResponseTest, OutputWithoutTextIsNoEventUnlessItHasLogprobs) {
  OpenAiRequest request = Request(OpenAiApi::kChat);
  EXPECT_EQ(ResponseTo(request).Event(0, Output("", {0})), "");
  request.num_top_logprobs = 0;
  EXPECT_NE(ResponseTo(request).Event(0, Output("", {0})), "");
}

TEST(OpenAiResponseTest, ChatLogprobsHaveTheBytesOfHalfCharacters) {
  OpenAiRequest request = Request(OpenAiApi::kChat);
  request.num_top_logprobs = 1;
  OpenAiResponse response = ResponseTo(request);
  const Json content =
      Objects(response.Event(0, Output("", {0})))[0]["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(content, Json::parse(R"([{"token": "\ufffd", "logprob": -0.5, "bytes": [195],
      "top_logprobs": [{"token": "a", "logprob": -9999.0, "bytes": [97]}]}])"));
}

TEST(OpenAiResponseTest, CompletionLogprobsCountCharactersAndLeaveOutSpecialTokens) {
  OpenAiRequest request = Request(OpenAiApi::kCompletions);
  request.num_top_logprobs = 0;
  OpenAiResponse response = ResponseTo(request);
  response.Add(0, Output("aéa", {2, 0, 1, 2, 3}));
  const Json logprobs = Json::parse(WholeAfter(response, Report(kEnd)))["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::parse(R"(["a", "bytes:\\xc3", "bytes:\\xa9", "a"])"));
  EXPECT_EQ(logprobs["text_offset"], Json::parse("[0, 1, 1, 2]"));
  EXPECT_EQ(logprobs["token_logprobs"], Json::parse("[-0.5, -0.5, -0.5, -0.5]"));
  EXPECT_EQ(logprobs["top_logprobs"], Json::parse(R"([{"a": -0.5}, {"bytes:\\xc3": -0.5},
                                                      {"bytes:\\xa9": -0.5}, {"a": -0.5}])"));
}

TEST(OpenAiResponseTest, TextOffsetsCountWhatStandsForBytesThatAreNoText) {
  OpenAiRequest request = Request(OpenAiApi::kCompletions);
  request.num_top_logprobs = 0;
  OpenAiResponse response = ResponseTo(request);
  const Json chunk = Objects(response.Event(0, Output("��a�é", {1, 0, 2, 0, 0, 1})))[0];
  EXPECT_EQ(chunk["choices"][0]["logprobs"]["text_offset"], Json::parse("[0, 1, 2, 3, 4, 4]"));
}

TEST(OpenAiResponseTest, ADrawnTokenThatIsNotOfTheLikeliestStandsBesideThem) {
  OpenAiRequest request = Request(OpenAiApi::kCompletions);
  request.num_top_logprobs = 1;
  OpenAiResponse response = ResponseTo(request);
  const Json logprobs = Objects(response.Event(0, Output("", {0})))[0]["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["top_logprobs"], Json::parse(R"([{"a": -9999.0, "bytes:\\xc3": -0.5}])"));
}

TEST(OpenAiResponseTest, TextOffsetsGoOnThroughAStream) {
  OpenAiRequest request = Request(OpenAiApi::kCompletions);
  request.num_top_logprobs = 1;
  OpenAiResponse response = ResponseTo(request);
  response.Event(0, Output("aa", {2, 2}));
  const Json logprobs = Objects(response.Event(0, Output("a", {2})))[0]["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["text_offset"], Json::parse("[2]"));
  EXPECT_EQ(logprobs["top_logprobs"], Json::parse(R"([{"a": -9999.0}])"));
}

TEST(OpenAiResponseTest, CommentsSayHowFarPrefillIs) {
  v1::GenerateProgress progress;
  EXPECT_EQ(CommentEvent(progress), ": queued\n\n");
  progress.set_phase(v1::GenerateProgress::PHASE_PREFILL);
  progress.set_fraction(0.4f);
  EXPECT_EQ(CommentEvent(progress), ": prefill 40%\n\n");
}

TEST(OpenAiErrorTest, EveryStatusHasItsHttpStatus) {
  const std::vector<std::pair<absl::Status, int>> expected = {
      {absl::InvalidArgumentError("x"), 400},   {absl::FailedPreconditionError("x"), 400},
      {absl::ResourceExhaustedError("x"), 429}, {absl::UnavailableError("x"), 503},
      {absl::DeadlineExceededError("x"), 504},  {absl::InternalError("x"), 500},
      {absl::DataLossError("x"), 500}};
  for (const auto& [status, http_status] : expected) {
    const OpenAiError error = OpenAiErrorOf(status);
    EXPECT_EQ(error.http_status, http_status) << status;
    EXPECT_EQ(error.retry_after.has_value(), http_status == 429 || http_status == 503) << status;
    EXPECT_EQ(Json::parse(error.Json())["error"]["message"], "x");
  }
}

TEST(OpenAiErrorTest, FieldsHaveTheBodysNames) {
  const auto error = [](const char* field, const char* message) {
    return OpenAiErrorOf(WithField(absl::InvalidArgumentError(message), field));
  };
  EXPECT_EQ(error("tokens.ids[3]", "tokens.ids[3] is 9").param, "prompt[3]");
  EXPECT_EQ(error("tokens.ids[3]", "tokens.ids[3] is 9").message, "prompt[3] is 9");
  EXPECT_EQ(error("compression.window", "x").param, "kvship.compression.window");
  EXPECT_EQ(error("chat.messages", "chat.messages is empty").message, "messages is empty");
  EXPECT_EQ(error("chatter", "x").param, "chatter");
  EXPECT_EQ(Json::parse(OpenAiErrorOf(absl::InvalidArgumentError("x")).Json()), Json::parse(R"(
      {"error": {"message": "x", "type": "invalid_request_error", "param": null, "code": null}})"));
}

TEST(OpenAiErrorTest, LongTextsAreCut) {
  const std::string name(1023, 'x');
  const OpenAiError error = OpenAiErrorOf(
      WithField(absl::InvalidArgumentError(name + "éé"), name + std::string(500, 'x')));
  const Json json = Json::parse(error.Json())["error"];
  EXPECT_EQ(json["message"], name + "...");
  EXPECT_EQ(json["param"], name + "x...");
}

TEST(OpenAiErrorTest, TheServersRetryDelayIsKept) {
  const absl::Status status = WithRetryDelay(absl::ResourceExhaustedError("x"), absl::Seconds(7));
  EXPECT_EQ(OpenAiErrorOf(status).retry_after, absl::Seconds(7));
}

TEST(OpenAiErrorTest, TextThatIsNotUtf8DoesNotThrow) {
  EXPECT_THAT(OpenAiErrorOf(absl::InvalidArgumentError("\xff")).Json(), HasSubstr("\xEF\xBF\xBD"));
  EXPECT_THAT(ErrorEvent(absl::UnavailableError("gone")), StartsWith("data: {\"error\":"));
}

}  // namespace
}  // namespace kvship
