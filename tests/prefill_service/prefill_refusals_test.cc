// What a prefill node answers to requests that are wrong, too many, or given up.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/prefill.h"
#include "rpc/errors.h"
#include "rpc/sealed_message.h"
#include "tests/prefill_service/prefill_node.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using Kind = v1::PrefillResponse::MessageCase;

class PrefillRefusalsTest : public ::testing::Test {
 protected:
  absl::Status Send(const v1::PrefillBegin& begin) {
    return CollectedCall::Start(node_, begin, {})->WaitUntilClosed();
  }
  // The answer to a right Begin after `change`.
  absl::Status SendChanged(const std::function<void(v1::PrefillBegin&)>& change) {
    v1::PrefillBegin begin = node_.Begin(RandomTokens(100, 1), "budget_tokens=64");
    change(begin);
    return Send(begin);
  }
  void ExpectWrong(const std::string& field, const std::string& what,
                   const std::function<void(v1::PrefillBegin&)>& change) {
    const absl::Status status = SendChanged(change);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(FieldOf(status), field);
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }

  PrefillNode node_;
};

TEST_F(PrefillRefusalsTest, AnotherWireMajorIsRefusedWithAReason) {
  const absl::Status status =
      SendChanged([](auto& begin) { begin.mutable_wire_version()->set_major(kWireMajor + 1); });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), kWireVersionMismatch);
}

TEST_F(PrefillRefusalsTest, AnotherModelIsRefusedWithAReason) {
  const absl::Status status =
      SendChanged([](auto& begin) { begin.mutable_model_identity()->at(3) ^= 1; });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), kModelMismatch);
}

TEST_F(PrefillRefusalsTest, AnotherPlanIsRefusedWithAReason) {
  const absl::Status status =
      SendChanged([](auto& begin) { begin.mutable_plan()->set_wire_bytes(1); });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), kPlanMismatch);
}

TEST_F(PrefillRefusalsTest, WrongFieldsAreNamed) {
  ExpectWrong("tokens", "is empty", [](auto& begin) { begin.clear_tokens(); });
  ExpectWrong("tokens[7]", "tokens[7] is 320; wanted an id below the vocabulary's 320",
              [](auto& begin) { begin.set_tokens(7, 320); });
  ExpectWrong("tokens[0]", "is 4294967295", [](auto& begin) { begin.set_tokens(0, UINT32_MAX); });
  ExpectWrong("tokens", "fewer than the model's context of 2048",
              [](auto& begin) { begin.mutable_tokens()->Resize(2048, 1); });
  ExpectWrong("cache_salt", "a text of 257 bytes; wanted at most 256",
              [](auto& begin) { begin.set_cache_salt(std::string(257, 's')); });
  ExpectWrong("forced_token", "is 320", [](auto& begin) { begin.set_forced_token(320); });
  ExpectWrong("allowed_tokens", "a list of 9; wanted the 10 words of the vocabulary",
              [](auto& begin) { begin.mutable_allowed_tokens()->Resize(9, 1); });
  ExpectWrong("allowed_tokens", "all 0; wanted at least one token",
              [](auto& begin) { begin.mutable_allowed_tokens()->Resize(10, 0); });
  ExpectWrong("transports", "[nccl]; wanted a list with 'grpc'", [](auto& begin) {
    begin.clear_transports();
    begin.add_transports("nccl");
  });
  ExpectWrong("request_id", "is a text of 65 bytes; wanted at most 64",
              [](auto& begin) { begin.set_request_id(std::string(65, 'x')); });
  ExpectWrong("logprobs", "21", [](auto& begin) { begin.set_logprobs(21); });
  ExpectWrong("sampling", "temperature", [](auto& begin) {
    begin.mutable_sampling()->set_temperature(std::numeric_limits<double>::quiet_NaN());
  });
  ExpectWrong("sampling.logit_bias", "the token 320",
              [](auto& begin) { (*begin.mutable_sampling()->mutable_logit_bias())[320] = 1; });
  ExpectWrong("compression.scorer", "best",
              [](auto& begin) { begin.mutable_compression()->set_scorer("best"); });
  ExpectWrong("compression.kernel", "kernel is '4'; wanted an odd number",
              [](auto& begin) { begin.mutable_compression()->set_kernel(4); });
  ExpectWrong("compression.budget_tokens", "budget_tokens is '20'",
              [](auto& begin) { begin.mutable_compression()->set_budget_tokens(20); });
}

TEST_F(PrefillRefusalsTest, ARefusalIsCountedByItsCode) {
  EXPECT_FALSE(SendChanged([](auto& begin) { begin.clear_tokens(); }).ok());
  bool found = false;
  for (const auto& family : node_.registry.Collect()) {
    for (const auto& metric : family.metric) {
      found |= family.name == "kvship_prefill_requests_total" &&
               metric.label.front().value == "INVALID_ARGUMENT" && metric.counter.value == 1;
    }
  }
  EXPECT_TRUE(found);
}

TEST_F(PrefillRefusalsTest, AMessageOverTheLimitIsRefused) {
  const absl::Status status =
      SendChanged([](auto& begin) { begin.mutable_tokens()->Resize(1 << 20, UINT32_MAX); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("larger than max"));
}

TEST_F(PrefillRefusalsTest, MessagesOutOfOrderAreRefused) {
  const auto call = CollectedCall::Start(node_, node_.Begin(RandomTokens(50, 2), "scorer=keep_all"),
                                         {.says_go = false});
  ASSERT_TRUE(call->WaitFor(Kind::kReady));
  v1::PrefillRequest again;
  *again.mutable_begin() = node_.Begin(RandomTokens(50, 2), "scorer=keep_all");
  call->channel().SendMessage(Sealed(again));
  const absl::Status status = call->WaitUntilClosed();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("begin came a second time"));
}

TEST_F(PrefillRefusalsTest, AMessageThatANetworkRepeatsIsRefused) {
  const auto call = CollectedCall::Start(
      node_, node_.Begin(RandomTokens(2000, 2), "scorer=keep_all"), {.says_go = false});
  ASSERT_TRUE(call->WaitFor(Kind::kReady));
  call->SayGo();
  call->SayGo();
  const absl::Status status = call->WaitUntilClosed();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("go came a second time"));
}

TEST_F(PrefillRefusalsTest, BytesThatAreNoMessageAreRefused) {
  const auto call = CollectedCall::Start(node_, node_.Begin(RandomTokens(50, 2), "scorer=keep_all"),
                                         {.says_go = false});
  ASSERT_TRUE(call->WaitFor(Kind::kReady));
  call->channel().SendMessage("\x0a\xff\xff\xff\xff\x0f nonsense");
  EXPECT_EQ(call->WaitUntilClosed().code(), absl::StatusCode::kDataLoss);
}

TEST(PrefillQueue, RefusesPastItsBoundsWithADelay) {
  PrefillNode node({.max_queue_requests = 3, .max_queue_tokens = 250});
  const auto begin = node.Begin(RandomTokens(100, 3), "scorer=keep_all");
  // These hold their places: nobody says Go.
  const auto first = CollectedCall::Start(node, begin, {.says_go = false});
  ASSERT_TRUE(first->WaitFor(Kind::kReady));
  const auto second = CollectedCall::Start(node, begin, {.says_go = false});
  ASSERT_TRUE(second->WaitFor(Kind::kReady));
  const absl::Status status = CollectedCall::Start(node, begin, {})->WaitUntilClosed();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("200 tokens of 250"));
  EXPECT_GE(RetryDelayOf(status).value_or(absl::ZeroDuration()), absl::Seconds(1));
}

TEST(PrefillQueue, RefusesForGoodWhatAloneExceedsTheMemoryForRuns) {
  const size_t room = PrefillRun::BytesFor(TinyModel().config(), 500, {});
  PrefillNode node({.max_active_bytes = room});
  const auto ask = [&node](size_t num_tokens) {
    return CollectedCall::Start(node, node.Begin(RandomTokens(num_tokens, 3), "scorer=keep_all"),
                                {})
        ->WaitUntilClosed();
  };
  const absl::Status status = ask(501);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), kContextLengthExceeded);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("wanted at most the ", room, " of")));
  EXPECT_EQ(ask(500), absl::OkStatus());
}

TEST(PrefillQueue, TheQueriesOfAWindowCountAsMemory) {
  const ModelConfig config = TinyModel().config();
  const size_t votes = 500 * config.num_query_heads * sizeof(float);
  const LayerNeeds needs = {.window_begin = 468, .window_end = 500};
  PrefillNode node({.max_active_bytes = PrefillRun::BytesFor(config, 500, needs) + votes});
  const auto ask = [&node](const char* compression) {
    return CollectedCall::Start(node, node.Begin(RandomTokens(500, 3), compression), {})
        ->WaitUntilClosed();
  };
  EXPECT_EQ(ask("budget_tokens=64,window=32"), absl::OkStatus());
  const char* const longest = "budget_tokens=64,observe_begin=1,recent_tokens=0";
  EXPECT_EQ(ReasonOf(ask(longest)), kContextLengthExceeded);
}

TEST(PrefillQueue, EndsAllThatRunsWhereItsTimeIsUp) {
  PrefillNode node({}, 64);
  const auto begin = node.Begin(RandomTokens(400, 7), "scorer=keep_all");
  const auto running = CollectedCall::Start(node, begin, {});
  ASSERT_TRUE(running->WaitFor(Kind::kLayer));
  node.scheduler.StartDraining();
  node.scheduler.EndAll();
  const absl::Status status = running->WaitUntilClosed();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), kDraining);
}

TEST(PrefillQueue, TellsPlacesAndServesInOrderOfArrival) {
  PrefillNode node;
  const auto begin = node.Begin(RandomTokens(100, 4), "scorer=keep_all");
  std::vector<std::shared_ptr<CollectedCall>> calls;
  for (int i = 0; i < 2; ++i) {
    calls.push_back(CollectedCall::Start(node, begin, {.says_go = false}));
    ASSERT_TRUE(calls.back()->WaitFor(Kind::kReady));
  }
  const auto third = CollectedCall::Start(node, begin, {});
  ASSERT_TRUE(third->WaitFor(Kind::kQueued));
  EXPECT_EQ(third->First(Kind::kQueued).queued().place(), 2u);
  calls[0]->SayGo();
  EXPECT_EQ(calls[0]->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(third->WaitUntilClosed(), absl::OkStatus());
  calls[1]->SayGo();
  EXPECT_EQ(calls[1]->WaitUntilClosed(), absl::OkStatus());
}

TEST(PrefillQueue, EndsARequestWhoseGoDoesNotCome) {
  PrefillNode node({.go_timeout = absl::Milliseconds(100)});
  const auto call = CollectedCall::Start(node, node.Begin(RandomTokens(50, 5), "scorer=keep_all"),
                                         {.says_go = false});
  const absl::Status status = call->WaitUntilClosed();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Go did not come within 100ms"));
  EXPECT_EQ(node.Metric("kvship_prefill_queue_tokens"), 0);
}

TEST(PrefillQueue, WhileDrainingNewRequestsAreSentElsewhereAndRunningOnesEnd) {
  PrefillNode node;
  const auto begin = node.Begin(RandomTokens(100, 6), "scorer=keep_all");
  const auto running = CollectedCall::Start(node, begin, {.says_go = false});
  ASSERT_TRUE(running->WaitFor(Kind::kReady));
  node.scheduler.StartDraining();
  EXPECT_EQ(CollectedCall::Start(node, begin, {})->WaitUntilClosed().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE(node.service.WaitUntilIdle(absl::Milliseconds(20)));
  running->SayGo();
  EXPECT_EQ(running->WaitUntilClosed(), absl::OkStatus());
  EXPECT_TRUE(node.service.WaitUntilIdle(absl::Seconds(10)));
}

TEST(PrefillCancel, FreesTheRequestInTheMiddleOfItsRun) {
  // 128 layers of 63 blocks: far from over when the first layer arrives.
  PrefillNode node({}, 64);
  const auto call =
      CollectedCall::Start(node, node.Begin(RandomTokens(4000, 7), "scorer=keep_all"), {});
  ASSERT_TRUE(call->WaitFor(Kind::kLayer));
  call->channel().Close(absl::CancelledError("enough"));
  EXPECT_EQ(call->WaitUntilClosed().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(node.service.WaitUntilIdle(absl::Seconds(10)));
  EXPECT_TRUE(node.Becomes("kvship_prefill_queue_tokens", 0, absl::Seconds(10)));
  EXPECT_EQ(node.Metric("kvship_prefill_active_requests"), 0);
  EXPECT_LT(node.Metric("kvship_prefill_step_seconds"), 128 * 63);
}

TEST(PrefillCancel, ADeadlineEndsTheRun) {
  // Seconds of work on any machine.
  PrefillNode node({}, 64);
  const auto call = CollectedCall::Start(
      node, node.Begin(RandomTokens(16'000, 8), "scorer=keep_all"), {}, absl::Milliseconds(100));
  EXPECT_EQ(call->WaitUntilClosed().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(node.service.WaitUntilIdle(absl::Seconds(10)));
}

}  // namespace
}  // namespace kvship
