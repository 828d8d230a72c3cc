// What a request that is ended from outside leaves behind.
#include "decode_service/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "kv/prefix_digests.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "tests/address_limit.h"
#include "tests/decode_service/generation_parts.h"
#include "tests/decode_service/letter_tokenizer.h"
#include "tests/decode_service/one_token_grammars.h"
#include "tests/decode_service/silent_node.h"
#include "tests/no_memory_for.h"
#include "tests/sanitized.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GenerationTest : public ::testing::Test {
 protected:
  std::shared_ptr<Generation> NewGeneration(const std::string& id = "r",
                                            const std::string& client = "") {
    const absl::Time now = MonotonicNow();
    return std::make_shared<Generation>(
        parts_.uses,
        Generation::Call{
            .id = id, .client = client, .arrival = now, .deadline = now + absl::Minutes(1)});
  }

  // Calls `on_end` when a client would see how the request ended, with that.
  static void OnEnd(Generation& generation, std::function<void(const absl::Status&)> on_end) {
    generation.responses().OnResponse([&generation, on_end = std::move(on_end)] {
      v1::GenerateResponse message;
      absl::Status end;
      while (generation.responses().Take(&message, &end) == ResponseBuffer::Next::kMessage) {
      }
      if (!end.ok()) on_end(end);
    });
  }

  static v1::GenerateRequest Request() {
    v1::GenerateRequest request;
    for (int i = 0; i < 50; ++i) request.mutable_tokens()->add_ids(1);
    request.set_max_tokens(2);
    return request;
  }

  static v1::GenerateRequest StructuredRequest() {
    v1::GenerateRequest request = Request();
    request.set_json_schema("{}");
    return request;
  }

  // Compiles structures by these from now on.
  OneTokenGrammars& Compile(std::optional<int32_t> token) {
    auto owned = std::make_unique<OneTokenGrammars>(token);
    OneTokenGrammars& grammars = *owned;
    node_.model.tokenizer = std::make_unique<LetterTokenizer>();
    node_.model.grammars = std::move(owned);
    return grammars;
  }

  // How a request ends where no memory is left for `num_bytes` from when its cache has come.
  absl::Status EndWithoutMemoryFor(size_t num_bytes, const v1::GenerateRequest& request,
                                   const std::string& id = "r") {
    std::optional<NoMemoryFor> none;
    return EndOf(
        request, id, [&] { none.emplace(num_bytes); }, [&] { none.reset(); });
  }

  // How a request with an error ends, whose cache has come when `before_manifest` is called.
  absl::Status EndOf(
      v1::GenerateRequest request, const std::string& id = "r",
      std::function<void()> before_manifest = [] {}, const std::function<void()>& at_end = [] {}) {
    *request.mutable_compression() = *CompressionFromText("scorer=keep_all");
    silent_.Answer(*MakePlan(*ParseCompression("scorer=keep_all"), node_.shape, 50),
                   std::move(before_manifest));
    const auto generation = NewGeneration(id);
    std::promise<absl::Status> ended;
    OnEnd(*generation, [&](const absl::Status& end) { ended.set_value(end); });
    while (parts_.nodes.Snapshot().empty()) std::this_thread::yield();
    generation->Start(request);
    auto end = ended.get_future();
    const bool has_ended = end.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    at_end();
    if (!has_ended) return absl::UnknownError("it has not ended");
    WaitUntilNobodyElseHas(generation);
    EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
    EXPECT_EQ(node_.queue.waiting_tokens(), 0u);
    EXPECT_THAT(parts_.Metrics(), HasSubstr("kvship_decode_memory_saved_bytes 0"));
    return end.get();
  }

  // A connection must not end on a thread of gRPC's: here it would be the last of its kind.
  static void WaitUntilNobodyElseHas(const std::shared_ptr<Generation>& generation) {
    while (generation.use_count() > 1) std::this_thread::yield();
  }

  // Waits until the node's first answer is there.
  bool IsChecked() const {
    const absl::Time give_up = absl::Now() + absl::Seconds(10);
    while (!parts_.nodes.CheckAnyAnswers().ok() && absl::Now() < give_up) std::this_thread::yield();
    return parts_.nodes.CheckAnyAnswers().ok();
  }

  std::unique_ptr<ReservationQueue::Ticket> Enter(size_t max_tail_tokens) {
    const KvPlan plan = *MakePlan({}, node_.shape, 50);
    return *node_.queue.Enter({.plan = plan, .max_tail_tokens = max_tail_tokens});
  }

  SilentNode silent_;
  GenerationParts parts_{{silent_.address()}, 1 << 20};
  TinyNode& node_ = parts_.node;
};

TEST_F(GenerationTest, OneThatIsCancelledWhileItIsServedHoldsNothingWhenItsEndIsSeen) {
  size_t own_bytes = 0;
  {
    const auto ticket = Enter(1);
    own_bytes = (*node_.queue.TryReserve(*ticket))->pool_bytes();
  }
  for (int round = 0; round < 5000; ++round) {
    const auto first = Enter(119 * kPageTokens);
    ReservationQueue::Cache blocking = *node_.queue.TryReserve(*first);
    const auto second = Enter(119 * kPageTokens);
    node_.queue.StandInLine(*second, [](const absl::StatusOr<ReservationQueue::Cache>&) {});
    const auto generation = NewGeneration();
    std::promise<size_t> held;
    OnEnd(*generation, [&](const absl::Status&) { held.set_value(node_.pool->reserved_bytes()); });
    generation->Start(Request());  // there is a line
    std::barrier at_once(2);
    auto other = std::async(std::launch::async, [&] {
      at_once.arrive_and_wait();
      blocking = nullptr;
    });
    at_once.arrive_and_wait();
    for (std::atomic<int> spin = 0; spin < round % 100 * 20; ++spin) {
    }
    generation->Cancel(absl::CancelledError("gone"));
    ASSERT_NE(held.get_future().get(), own_bytes) << "round " << round;
    other.get();
    WaitUntilNobodyElseHas(generation);
    ASSERT_EQ(node_.pool->reserved_bytes(), 0u);
    ASSERT_EQ(node_.queue.waiting_tokens(), 0u);
  }
}

TEST_F(GenerationTest, APromptThatMemoryDoesNotHoldIsRefused) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Resize(1 << 24, 1);  // 64 MiB, which are copied
  const auto generation = NewGeneration();
  absl::Status ended;
  OnEnd(*generation, [&](const absl::Status& end) { ended = end; });
  {
    const AddressLimit limit(size_t{32} << 20);
    generation->Start(request);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(ended)) << ended;
  EXPECT_TRUE(RetryDelayOf(ended).has_value());
}

TEST_F(GenerationTest, OneThatMemoryDoesNotHoldWhenItsCacheHasComeEnds) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  constexpr size_t kForcedTokens = 77;  // of which the session makes a copy
  v1::GenerateRequest request = Request();
  request.set_max_tokens(0);
  request.mutable_forced_tokens()->Resize(kForcedTokens, 7);
  const absl::Status end = EndWithoutMemoryFor(kForcedTokens * sizeof(int32_t), request);
  EXPECT_TRUE(absl::IsResourceExhausted(end)) << end;
}

TEST_F(GenerationTest, OneInLineWhosePromptsDigestsMemoryDoesNotHoldEndsAndTheLineGoesOn) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  constexpr int kBlocks = 7;
  ASSERT_TRUE(IsChecked());
  const auto first = Enter(119 * kPageTokens);
  ReservationQueue::Cache blocking = *node_.queue.TryReserve(*first);
  const auto second = Enter(119 * kPageTokens);
  node_.queue.StandInLine(*second, [](const absl::StatusOr<ReservationQueue::Cache>&) {});
  v1::GenerateRequest request = Request();
  request.mutable_tokens()->mutable_ids()->Resize(kBlocks * kPrefixBlockTokens, 1);
  const auto generation = NewGeneration();
  absl::Status ended;
  OnEnd(*generation, [&](const absl::Status& end) { ended = end; });
  generation->Start(request);
  {
    const NoMemoryFor none(kBlocks * sizeof(Sha256Digest), /*in_this_thread_alone=*/true);
    blocking = nullptr;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(ended)) << ended;
  EXPECT_FALSE(node_.queue.has_line());
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(GenerationTest, OneForWhoseAttemptThereIsNoMemoryEndsAndLeavesItsNode) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  constexpr size_t kControlBytes = 16;  // that a shared pointer adds
  ASSERT_TRUE(IsChecked());
  const auto generation = NewGeneration();
  absl::Status ended;
  OnEnd(*generation, [&](const absl::Status& end) { ended = end; });
  {
    const NoMemoryFor none(sizeof(PrefillAttempt) + kControlBytes, /*in_this_thread_alone=*/true);
    generation->Start(Request());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(ended)) << ended;
  EXPECT_EQ(parts_.nodes.Snapshot().at(0).load_tokens, 0u);
  EXPECT_EQ(node_.queue.waiting_tokens(), 0u);
}

TEST_F(GenerationTest, OneWhoseReportMemoryDoesNotHoldEnds) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  const std::string id(1236, 'r');  // which the list of recent requests has a copy of
  v1::GenerateRequest request = Request();
  request.set_max_tokens(1);
  const absl::Status end = EndWithoutMemoryFor(id.size() + 1, request, id);
  EXPECT_TRUE(absl::IsResourceExhausted(end)) << end;
}

TEST_F(GenerationTest, ANodeThatDrawsATokenWhichIsNotAllowedIsBroken) {
  Compile(8);
  const absl::Status end = EndOf(StructuredRequest());  // it draws 7
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("first_token is none of allowed_tokens"));
}

TEST_F(GenerationTest, ASchemaThatCannotBeCompiledIsNamed) {
  Compile(std::nullopt);
  const absl::Status end = EndOf(StructuredRequest());
  EXPECT_EQ(end.code(), absl::StatusCode::kInvalidArgument) << end;
  EXPECT_EQ(FieldOf(end), "json_schema");
  EXPECT_EQ(end.message(), "json_schema cannot be compiled: too odd");
  EXPECT_EQ(node_.queue.waiting_tokens(), 0u);
}

TEST_F(GenerationTest, OthersWaitForACompilerAndMayGoMeanwhile) {
  OneTokenGrammars& grammars = Compile(std::nullopt);
  grammars.may_go_on = false;
  std::promise<absl::Status> ends[2];
  const std::shared_ptr<Generation> generations[] = {NewGeneration("a"), NewGeneration("b")};
  for (int i = 0; i < 2; ++i) {
    OnEnd(*generations[i], [&ends, i](const absl::Status& end) { ends[i].set_value(end); });
    EXPECT_TRUE(generations[i]->Start(StructuredRequest()));
  }
  const absl::Status why = absl::CancelledError("enough");
  while (grammars.num_compiled == 0) std::this_thread::yield();
  generations[1]->Cancel(why);
  std::future<absl::Status> gone = ends[1].get_future();
  EXPECT_EQ(gone.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(generations[1].use_count(), 1);  // the compiler does not keep it
  EXPECT_EQ(node_.queue.waiting_tokens(), 50u);
  grammars.may_go_on = true;
  EXPECT_TRUE(absl::IsInvalidArgument(ends[0].get_future().get()));
  EXPECT_EQ(gone.get(), why);
  EXPECT_EQ(grammars.num_compiled, 1);
  WaitUntilNobodyElseHas(generations[0]);
}

TEST_F(GenerationTest, ClientsTakeTurnsAtTheCompiler) {
  OneTokenGrammars& grammars = Compile(std::nullopt);
  grammars.may_go_on = false;
  std::vector<std::shared_ptr<Generation>> generations;
  std::vector<std::string> order;  // in which they end
  std::promise<void> all;
  for (const char* client : {"one", "one", "one", "one", "another"}) {
    const auto generation = generations.emplace_back(NewGeneration(client, client));
    OnEnd(*generation, [&, client](const absl::Status&) {
      order.emplace_back(client);
      if (order.size() == 5) all.set_value();
    });
    EXPECT_TRUE(generation->Start(StructuredRequest()));
    while (grammars.num_compiled == 0) std::this_thread::yield();  // the first one is at it
  }
  grammars.may_go_on = true;
  all.get_future().get();
  EXPECT_THAT(order, ElementsAre("one", "another", "one", "one", "one"));
  for (const auto& generation : generations) WaitUntilNobodyElseHas(generation);
}

TEST_F(GenerationTest, EndingItDoesNotEjectItsPrefillNode) {
  const auto generation = NewGeneration();
  std::promise<absl::Status> ended;
  OnEnd(*generation, [&](const absl::Status& end) { ended.set_value(end); });
  while (parts_.nodes.Snapshot().empty()) std::this_thread::yield();
  generation->Start(Request());
  while (!silent_.prompt_came) std::this_thread::yield();
  const absl::Status why = absl::UnavailableError("the server shuts down");
  generation->Cancel(why);
  EXPECT_EQ(ended.get_future().get(), why);
  WaitUntilNobodyElseHas(generation);
  EXPECT_THAT(parts_.Metrics(), HasSubstr("kvship_decode_prefill_ejections_total 0"));
}

}  // namespace
}  // namespace kvship
