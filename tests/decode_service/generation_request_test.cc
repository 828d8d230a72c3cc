#include "decode_service/generation_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"
#include "tests/decode_service/fake_tokenizer.h"
#include "tests/engine/chat_programs.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Encodes each byte as the id of the same number.
class ByteTokenizer : public FakeTokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              std::span<const TextRange>) const override {
    return std::vector<int32_t>(text.begin(), text.end());
  }
  int32_t begin_token() const override { return 1; }
};

// The golden model: a vocabulary of 320, a context of 2048, no tokenizer of its own.
class GenerationRequestTest : public ::testing::Test {
 protected:
  GenerationRequestTest() : model_(*ServedModel::Load(KVSHIP_GOLDENS "/models/llama")) {}

  static v1::GenerateRequest Tokens(size_t count = 100) {
    v1::GenerateRequest message;
    for (size_t i = 0; i < count; ++i) message.mutable_tokens()->add_ids(i % 320);
    return message;
  }

  absl::StatusOr<GenerationRequest> Read(const v1::GenerateRequest& message) {
    return ReadRequest(message, model_, limits_);
  }

  ServedModel model_;
  RequestLimits limits_ = {.default_max_tokens = 50};
};

TEST_F(GenerationRequestTest, DefaultsAreFilledIn) {
  const auto request = Read(Tokens());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->output.max_tokens, 50u);
  EXPECT_EQ(request->max_tail_tokens(), 49u);
  EXPECT_EQ(request->output.end_tokens, model_.config().end_tokens);
  EXPECT_EQ(request->compression.scorer, "snapkv");
  EXPECT_EQ(request->plan.prompt_tokens, 100u);
}

TEST_F(GenerationRequestTest, AShortPromptKeepsTheLeastThatARatioComesTo) {
  v1::GenerateRequest message = Tokens();
  message.mutable_compression()->set_budget_ratio(0.1);
  message.mutable_compression()->set_min_tokens(40);
  const auto request = Read(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->compression.budget_tokens, 40u) << "what the prefill node is asked for";
  EXPECT_THAT(request->plan.layer_tokens, ::testing::Each(40 * request->plan.num_heads));
}

TEST_F(GenerationRequestTest, DefaultOutputShrinksToTheContext) {
  const auto request = Read(Tokens(2040));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->output.max_tokens, 8u);
}

TEST_F(GenerationRequestTest, TextBecomesTokensBehindTheBeginToken) {
  model_.tokenizer = std::make_unique<ByteTokenizer>();
  v1::GenerateRequest message;
  message.set_prompt("AB");
  const auto request = Read(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->tokens, ElementsAre(1, 'A', 'B'));
}

TEST_F(GenerationRequestTest, AModelThatMayThinkIsToldWhetherItIsTo) {
  model_.tokenizer = std::make_unique<ByteTokenizer>();
  model_.chat_template = *ChatTemplate::Create(
      ChatSource("{% for m in messages %}U{{ m.content }}{% endfor %}A"
                 "{% if enable_thinking is defined and not enable_thinking %}N{% endif %}"));
  v1::GenerateRequest message;
  v1::ChatMessage& user = *message.mutable_chat()->add_messages();
  user.set_role("user");
  user.set_content("?");
  EXPECT_THAT(Read(message)->tokens, ElementsAre('U', '?', 'A'));
  message.mutable_chat()->set_thinking(true);
  EXPECT_THAT(Read(message)->tokens, ElementsAre('U', '?', 'A'));
  message.mutable_chat()->set_thinking(false);
  EXPECT_THAT(Read(message)->tokens, ElementsAre('U', '?', 'A', 'N'));

  model_.chat_template = *ChatTemplate::Create(
      ChatSource("{% for m in messages %}U{{ m.content }}{% endfor %}<think>"));
  const absl::Status status = Read(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "chat.thinking is false, but the model always thinks; wanted it left out");
  EXPECT_EQ(FieldOf(status), "chat.thinking");
}

TEST_F(GenerationRequestTest, AModelThatKnowsToolsIsToldOfThem) {
  model_.tokenizer = std::make_unique<ByteTokenizer>();
  model_.chat_template = *ChatTemplate::Create(ChatSource(Llama3Program()));
  const auto text = [this](const v1::GenerateRequest& message) {
    const auto request = Read(message);
    EXPECT_TRUE(request.ok()) << request.status();
    return request.ok() ? std::string(request->tokens.begin(), request->tokens.end()) : "";
  };
  v1::GenerateRequest message;
  v1::ChatMessages& chat = *message.mutable_chat();
  chat.add_messages()->set_role("user");
  v1::ChatMessage& assistant = *chat.add_messages();
  assistant.set_role("assistant");
  v1::ToolCall& call = *assistant.add_tool_calls();
  call.set_name("f");
  call.set_arguments("{}");
  chat.add_messages()->set_role("tool");
  chat.add_tools("{}");
  const std::string prompt = "T[{}]UA{\"name\": \"f\", \"parameters\": {}}TA";
  EXPECT_EQ(text(message), prompt);
  chat.set_forced_call("");
  EXPECT_EQ(text(message), prompt + "{\"name\": \"");
  chat.set_tools(0, "[]");
  EXPECT_EQ(FieldOf(Read(message).status()), "chat.tools");
  EXPECT_EQ(Read(message).status().message(), "tools[0] is no JSON object; wanted one");
}

// The template would take time and memory for each message, whatever comes of them.
TEST_F(GenerationRequestTest, AChatThatCannotFitIsRefusedBeforeItsTemplateRuns) {
  model_.tokenizer = std::make_unique<ByteTokenizer>();
  model_.chat_template =
      *ChatTemplate::Create(ChatSource("{% for m in messages %}{{ m.content }}{% endfor %}A"));
  model_.most_text_bytes = 10'000;
  v1::GenerateRequest message;
  v1::ChatMessages& chat = *message.mutable_chat();
  for (int i = 0; i < 2048; ++i) chat.add_messages()->set_role("user");
  EXPECT_THAT(Read(message)->tokens, ElementsAre('A'));

  v1::ChatMessage& last = *chat.mutable_messages(2047);
  last.set_role("assistant");
  last.add_tool_calls()->set_arguments("{}");
  absl::Status status = Read(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "chat.messages has 2049 messages and calls of tools; wanted at most 2048");
  EXPECT_EQ(ReasonOf(status), kContextLengthExceeded);

  chat.clear_messages();
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content(std::string(9'997, 'a'));
  status = Read(message).status();
  EXPECT_EQ(status.message(),
            "chat.messages has 10001 bytes; wanted at most 10000, as more cannot fit the context "
            "of 2048 tokens");
  EXPECT_EQ(FieldOf(status), "chat.messages");
}

// Has special tokens that stand in calls.
class CallTokenizer final : public ByteTokenizer {
 public:
  absl::string_view TokenBytes(int32_t id) const override {
    return id == 300 ? "[TOOL_CALLS]" : id == 301 ? "[ARGS]" : "";
  }
};

TEST_F(GenerationRequestTest, TokensOfCallsAreShownWhereThereMayBeCalls) {
  model_.tokenizer = std::make_unique<CallTokenizer>();
  model_.chat_template = *ChatTemplate::Create(ChatSource(MistralProgram()));
  model_.call_tokens = {300, 301};
  v1::GenerateRequest message;
  message.mutable_chat()->add_messages()->set_role("user");
  EXPECT_THAT(Read(message)->output.shown_tokens, IsEmpty());
  // A text that is held to it has to have it.
  message.set_json_schema(R"({"const": "[ARGS]"})");
  EXPECT_THAT(Read(message)->output.shown_tokens, ElementsAre(301));
  message.clear_json_schema();
  message.mutable_chat()->add_tools(R"({"function": {"name": "f"}})");
  EXPECT_THAT(Read(message)->output.shown_tokens, ElementsAre(300, 301));
}

TEST_F(GenerationRequestTest, TokensOfThoughtsAreShownInAllChats) {
  model_.tokenizer = std::make_unique<CallTokenizer>();
  model_.chat_template = *ChatTemplate::Create(ChatSource(MistralProgram()));
  model_.thought_tokens = {301};
  EXPECT_THAT(Read(Tokens())->output.shown_tokens, IsEmpty());
  v1::GenerateRequest message;
  message.mutable_chat()->add_messages()->set_role("user");
  EXPECT_THAT(Read(message)->output.shown_tokens, ElementsAre(301));
}

TEST_F(GenerationRequestTest, ForcedTokensDecideTheLengthAndIgnoreEndTokens) {
  v1::GenerateRequest message = Tokens();
  for (uint32_t id : {2, 2, 3}) message.add_forced_tokens(id);
  const auto request = Read(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->output.max_tokens, 3u);
  EXPECT_TRUE(request->output.end_tokens.empty());
}

TEST_F(GenerationRequestTest, WrongFieldsAreNamedWithTheirValues) {
  struct Row {
    std::function<void(v1::GenerateRequest*)> change;
    absl::StatusCode code;
    std::string field;
    std::vector<std::string> words;  // in the message
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  const auto kFailed = absl::StatusCode::kFailedPrecondition;
  const Row rows[] = {
      {[](auto* r) { r->clear_tokens(); }, kInvalid, "input", {"not set"}},
      {[](auto* r) { r->set_prompt(""); }, kInvalid, "prompt", {"empty"}},
      {[](auto* r) { r->mutable_chat(); }, kInvalid, "chat.messages", {"empty"}},
      {[](auto* r) { r->mutable_tokens()->clear_ids(); }, kInvalid, "tokens.ids", {"empty"}},
      {[](auto* r) { r->mutable_tokens()->set_ids(3, 320); },
       kInvalid,
       "tokens.ids[3]",
       {"is 320", "below", "320"}},
      {[](auto* r) { r->mutable_tokens()->set_ids(0, UINT32_MAX); },
       kInvalid,
       "tokens.ids[0]",
       {"4294967295"}},
      {[](auto* r) { r->set_prompt("text"); }, kFailed, "prompt", {"no tokenizer"}},
      {[](auto* r) { r->mutable_chat()->add_messages()->set_role("user"); },
       kFailed,
       "chat",
       {"no tokenizer"}},
      {[](auto* r) { *r = Tokens(2048); },
       kFailed,
       "tokens.ids",
       {"2048 tokens", "fewer than the 2048"}},
      {[](auto* r) { r->set_max_tokens(1949); },
       kFailed,
       "max_tokens",
       {"max_tokens is 1949", "1948"}},
      {[](auto* r) { r->mutable_sampling()->set_temperature(NAN); },
       kInvalid,
       "sampling",
       {"temperature", "nan"}},
      {[](auto* r) { r->mutable_sampling()->set_temperature(-1); },
       kInvalid,
       "sampling",
       {"temperature", "-1"}},
      {[](auto* r) { r->mutable_sampling()->set_top_p(0); }, kInvalid, "sampling", {"top_p"}},
      {[](auto* r) { r->mutable_sampling()->set_top_p(NAN); }, kInvalid, "sampling", {"top_p"}},
      {[](auto* r) { r->mutable_sampling()->set_min_p(2); }, kInvalid, "sampling", {"min_p is 2"}},
      {[](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[320] = 1; },
       kInvalid,
       "sampling.logit_bias",
       {"the token 320", "below the vocabulary's 320"}},
      {[](auto* r) { r->set_logprobs(21); }, kInvalid, "logprobs", {"is 21", "20"}},
      {[](auto* r) {
         for (int i = 0; i < 17; ++i) r->add_stop("x");
       },
       kInvalid,
       "stop",
       {"a list of 17", "at most 16"}},
      {[](auto* r) { r->add_stop(""); }, kInvalid, "stop[0]", {"empty"}},
      {[](auto* r) { r->set_cache_salt(std::string(257, 's')); },
       kInvalid,
       "cache_salt",
       {"257", "256"}},
      {[](auto* r) { r->add_stop(std::string(257, 'x')); }, kInvalid, "stop[0]", {"257", "256"}},
      {[](auto* r) { r->add_stop("x"); }, kFailed, "stop", {"no tokenizer"}},
      {[](auto* r) {
         r->add_forced_tokens(1);
         r->set_max_tokens(3);
       },
       kInvalid,
       "forced_tokens",
       {"max_tokens"}},
      {[](auto* r) { r->add_forced_tokens(320); }, kInvalid, "forced_tokens[0]", {"320"}},
      {[](auto* r) { r->mutable_compression()->set_scorer("best"); },
       kInvalid,
       "compression.scorer",
       {"'best'", "snapkv"}},
      {[](auto* r) { r->mutable_compression()->set_kernel(4); },
       kInvalid,
       "compression.kernel",
       {"'4'", "odd"}},
      {[](auto* r) { r->mutable_compression()->set_budget_tokens(31); },
       kInvalid,
       "compression.budget_tokens",
       {"'31'", "32: what is always kept"}},
      {[](auto* r) { r->mutable_compression()->set_budget_ratio(0.2); },
       kInvalid,
       "compression.budget_ratio",
       {"budget_ratio", "0.2"}},
  };
  for (const Row& row : rows) {
    v1::GenerateRequest message = Tokens();
    row.change(&message);
    const absl::Status status = Read(message).status();
    EXPECT_EQ(status.code(), row.code) << status;
    EXPECT_EQ(FieldOf(status), row.field) << status;
    for (const std::string& word : row.words) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(word));
    }
  }
}

TEST_F(GenerationRequestTest, ForcedTokensExcludeStopTexts) {
  model_.tokenizer = std::make_unique<ByteTokenizer>();
  v1::GenerateRequest message = Tokens();
  message.add_stop("x");
  message.add_forced_tokens(1);
  EXPECT_EQ(FieldOf(Read(message).status()), "forced_tokens");
}

TEST_F(GenerationRequestTest, AnOutputIsHeldToASchemaOrToStrictTools) {
  model_.tokenizer = std::make_unique<ByteTokenizer>();
  model_.chat_template = *ChatTemplate::Create(ChatSource(HermesProgram()));
  EXPECT_EQ(Read(Tokens())->structure, "");
  v1::GenerateRequest schema = Tokens();
  schema.set_json_schema(R"({"type": "integer", "title": "a number"})");
  EXPECT_THAT(Read(schema)->structure, HasSubstr(R"("json_schema": {"type":"integer"})"));
  v1::GenerateRequest tools;
  tools.mutable_chat()->add_messages()->set_role("user");
  tools.mutable_chat()->add_tools(R"({"function": {"name": "f"}})");
  EXPECT_EQ(Read(tools)->structure, "");
  tools.mutable_chat()->set_tools(0, R"({"function": {"name": "f", "strict": true}})");
  EXPECT_THAT(Read(tools)->structure, HasSubstr("<tool_call>"));

  const auto wrong = [this](v1::GenerateRequest message,
                            const std::function<void(v1::GenerateRequest*)>& change) {
    change(&message);
    const absl::Status status = Read(message).status();
    return absl::StrCat(FieldOf(status), ": ", status.message());
  };
  EXPECT_EQ(wrong(schema, [](auto* r) { r->set_json_schema(R"({"not": {}})"); }),
            "json_schema: json_schema.not is {}; wanted it left out: no output can be held to it "
            "here");
  EXPECT_EQ(wrong(schema, [](auto* r) { r->add_forced_tokens(1); }),
            "json_schema: json_schema is set; wanted it left out beside forced_tokens");
  EXPECT_EQ(wrong(schema, [](auto* r) { r->set_ignore_end_tokens(true); }),
            "json_schema: json_schema is set; wanted end tokens heeded beside it");
  EXPECT_EQ(wrong(schema, [](auto* r) { r->set_min_tokens(1); }),
            "json_schema: json_schema is set; wanted min_tokens left at 0 beside it");
  EXPECT_EQ(wrong(tools, [](auto* r) { r->set_ignore_end_tokens(true); }),
            "chat.tools: chat.tools is set; wanted end tokens heeded beside it");
  EXPECT_EQ(wrong(tools,
                  [](auto* r) {
                    r->set_json_schema("{}");
                    r->mutable_chat()->set_forced_call("f");
                  }),
            "json_schema: json_schema is set; wanted it left out beside a forced call");
  model_.tokenizer = nullptr;
  EXPECT_THAT(wrong(schema, [](auto*) {}), HasSubstr("json_schema: json_schema is set, but"));
}

TEST_F(GenerationRequestTest, MinTokensForbidTheEndAtFirst) {
  v1::GenerateRequest message = Tokens();
  message.set_max_tokens(8);
  EXPECT_TRUE(Read(message)->first_token_mask.empty());
  message.set_min_tokens(8);
  const auto request = Read(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->output.min_tokens, 8u);
  size_t forbidden = 0;
  for (size_t token = 0; token < model_.config().vocab_tokens; ++token) {
    forbidden += !Allows(request->first_token_mask, token);
  }
  EXPECT_EQ(forbidden, model_.config().end_tokens.size());
  for (const int32_t token : model_.config().end_tokens) {
    EXPECT_FALSE(Allows(request->first_token_mask, token));
  }
  message.set_ignore_end_tokens(true);
  EXPECT_TRUE(Read(message)->first_token_mask.empty());

  message.set_min_tokens(9);
  EXPECT_EQ(Read(message).status().message(), "min_tokens is 9; wanted at most max_tokens, 8");
  message.clear_max_tokens();
  message.add_forced_tokens(1);
  EXPECT_EQ(Read(message).status().message(), "min_tokens is 9; wanted 0 beside forced_tokens");
}

TEST_F(GenerationRequestTest, ServersOwnContextLimitCounts) {
  limits_.context_tokens = 101;
  EXPECT_EQ(Read(Tokens(100))->output.max_tokens, 1u);
  EXPECT_EQ(Read(Tokens(101)).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace kvship
