// What becomes of a request whose prefill node fails it, and what is said then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <optional>
#include <thread>

#include "absl/strings/match.h"
#include "base/clock.h"
#include "decode_service/generation.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "tests/decode_service/generation_parts.h"
#include "tests/decode_service/silent_node.h"
#include "tests/eventually.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPromptTokens = 50;
constexpr char kNobody[] = "127.0.0.1:1";

class GenerationNodesTest : public ::testing::Test {
 protected:
  // Sends a request to a decode node with these prefill nodes, once they are known.
  void Start(const std::vector<std::string>& addresses, const KvPool::Writer& writer = nullptr) {
    parts_.emplace(addresses, 1 << 20, writer);
    ASSERT_TRUE(Eventually([&] { return parts_->nodes.Snapshot().size() == addresses.size(); }));
    ASSERT_TRUE(Eventually([&] { return parts_->nodes.CheckAnyAnswers().ok(); }));
    const absl::Time now = MonotonicNow();
    generation_ = std::make_shared<Generation>(
        parts_->uses,
        Generation::Call{
            .id = "r", .client = "", .arrival = now, .deadline = now + absl::Minutes(1)});
    generation_->responses().OnResponse([this] {
      v1::GenerateResponse message;
      absl::Status end;
      while (generation_->responses().Take(&message, &end) == ResponseBuffer::Next::kMessage) {
      }
      if (!end.ok()) end_.set_value(end);
    });
    v1::GenerateRequest request;
    for (size_t i = 0; i < kPromptTokens; ++i) request.mutable_tokens()->add_ids(1);
    request.set_max_tokens(2);
    *request.mutable_compression() = *CompressionFromText("scorer=keep_all");
    generation_->Start(request);
  }

  // The error that it ends with, when it holds nothing any more.
  absl::Status End() {
    std::future<absl::Status> end = end_.get_future();
    if (end.wait_for(std::chrono::seconds(10)) != std::future_status::ready) {
      return absl::UnknownError("it has not ended");
    }
    // A connection must not end on a thread of gRPC's: here it would be the last of its kind.
    while (generation_.use_count() > 1) std::this_thread::yield();
    EXPECT_EQ(parts_->node.queue.waiting_tokens(), 0u);
    EXPECT_EQ(parts_->node.pool->reserved_bytes(), 0u);
    return end.get();
  }
  absl::Status Cancel() {
    generation_->Cancel(absl::CancelledError("enough"));
    return End();
  }

  bool HasMetric(const std::string& line) const {
    return absl::StrContains(parts_->Metrics(), line + "\n");
  }
  KvPlan Plan() const {
    const ServedModel model = *ServedModel::Load(KVSHIP_GOLDENS "/models/llama");
    return *MakePlan(*ParseCompression("scorer=keep_all"), ShapeOf(model.config()), kPromptTokens);
  }
  // The one that has the prompt, and the other one.
  SilentNode& reader() { return a_.prompt_came ? a_ : b_; }
  SilentNode& other() { return a_.prompt_came ? b_ : a_; }

  SilentNode a_;
  SilentNode b_;
  std::optional<GenerationParts> parts_;
  std::shared_ptr<Generation> generation_;
  std::promise<absl::Status> end_;
};

TEST_F(GenerationNodesTest, OneWhoseNodeIsLostIsCountedAsWaitingAgain) {
  std::atomic<int> num_lost = 0;
  for (SilentNode* node : {&a_, &b_}) node->LoseFirst(Plan(), &num_lost);
  Start({a_.address(), b_.address()});
  ASSERT_TRUE(Eventually([this] { return a_.prompt_came && b_.prompt_came; }));
  EXPECT_EQ(num_lost, 1);
  EXPECT_EQ(parts_->node.pool->reserved_bytes(), 0u);
  EXPECT_EQ(parts_->node.queue.waiting_tokens(), kPromptTokens);
  EXPECT_TRUE(absl::IsCancelled(Cancel()));
}

TEST_F(GenerationNodesTest, OneWhoseNodeSaysThatItIsStuckGoesToAnother) {
  Start({a_.address(), b_.address()});
  ASSERT_TRUE(Eventually([this] { return a_.prompt_came || b_.prompt_came; }));
  SilentNode& next = other();
  reader().is_stuck = true;
  ASSERT_TRUE(Eventually([&next] { return next.prompt_came.load(); }));
  EXPECT_TRUE(Eventually(
      [this] { return HasMetric("kvship_decode_prefill_retries_total{reason=\"lost\"} 1"); }));
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_ejections_total 0"));
  next.is_stuck = true;
  const absl::Status end = End();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("it says that it cannot serve: it is stuck"));
}

TEST_F(GenerationNodesTest, OneWhoseNodeDrainsIsReadThere) {
  Start({a_.address(), b_.address()});
  ASSERT_TRUE(Eventually([this] { return a_.prompt_came || b_.prompt_came; }));
  SilentNode& next = other();
  reader().is_draining = true;
  ASSERT_TRUE(Eventually(
      [this] { return HasMetric("kvship_decode_prefill_nodes{standing=\"draining\"} 1"); }));
  EXPECT_TRUE(absl::IsCancelled(Cancel()));
  EXPECT_FALSE(next.prompt_came);
}

TEST_F(GenerationNodesTest, NodesThatDrainHaveNotFailedAtWhatTheySendAway) {
  for (SilentNode* node : {&a_, &b_}) {
    node->Refuse(WithReason(absl::UnavailableError("the server is shutting down"), kDraining));
  }
  Start({a_.address(), b_.address()});
  EXPECT_TRUE(absl::IsUnavailable(End()));
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_retries_total{reason=\"draining\"} 1"));
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_failures_total{code=\"UNAVAILABLE\"} 0"));
}

TEST_F(GenerationNodesTest, AFullNodeIsNotMadeALostOneByOthersThatDoNotAnswer) {
  a_.Refuse(WithRetryDelay(absl::ResourceExhaustedError("the queue is full"), absl::Seconds(7)));
  Start({a_.address(), kNobody});
  const absl::Status end = End();
  EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
  EXPECT_EQ(RetryDelayOf(end), absl::Seconds(7));
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_retries_total{reason=\"full\"} 0"))
      << "a connection would be waited for";
}

TEST_F(GenerationNodesTest, WhatIsTooMuchForTheNodeThatAnswersIsSaidToBeSo) {
  const absl::Status never =
      WithReason(absl::FailedPreconditionError("too long"), kContextLengthExceeded);
  a_.Refuse(never);
  Start({a_.address(), kNobody});
  EXPECT_EQ(End(), never);
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_retries_total{reason=\"mismatch\"} 1"))
      << "another may have more memory";
}

TEST_F(GenerationNodesTest, WhereAModelOverflowsNoOtherNodeIsTried) {
  for (SilentNode* node : {&a_, &b_}) node->Refuse(NoLogits());
  Start({a_.address(), b_.address()});
  EXPECT_EQ(End(), NoLogits());
  EXPECT_FALSE(a_.prompt_came && b_.prompt_came);
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_ejections_total 0"));
}

TEST_F(GenerationNodesTest, WhatThisNodeCannotWriteEndsTheRequestAndIsNoNodesFault) {
  for (SilentNode* node : {&a_, &b_}) node->Answer(Plan(), [] {});
  const absl::Status lost = absl::InternalError("the GPU is lost");
  Start({a_.address(), b_.address()}, [&lost](auto) { return lost; });
  EXPECT_EQ(End(), lost);
  EXPECT_FALSE(a_.prompt_came && b_.prompt_came);
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_ejections_total 0"));
  EXPECT_TRUE(HasMetric("kvship_decode_prefill_failures_total{code=\"INTERNAL\"} 0"));
}

TEST_F(GenerationNodesTest, LikelyTokensThatWereNotAskedForAreBroken) {
  for (SilentNode* node : {&a_, &b_}) {
    node->Answer(
        Plan(), [] {}, /*num_likely=*/1);
  }
  Start({a_.address(), b_.address()});
  const absl::Status end = End();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(std::string(end.message()),
              HasSubstr("first_token.top has 1 tokens; wanted at most 0"));
}

}  // namespace
}  // namespace kvship
