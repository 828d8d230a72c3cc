// What a request that is ended from outside leaves behind.
#include "decode_service/generation.h"

#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <functional>
#include <future>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/errors.h"
#include "tests/address_limit.h"
#include "tests/decode_service/generation_parts.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

// Takes prompts and says nothing.
class SilentNode final : public v1::PrefillService::Service {
 public:
  SilentNode() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::PrefillServiceGetModelInfoRequest*,
                            v1::PrefillServiceGetModelInfoResponse* response) override {
    const Sha256Digest identity = {};
    response->mutable_model()->set_identity(identity.data(), identity.size());
    return grpc::Status::OK;
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status Prefill(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::PrefillResponse, v1::PrefillRequest>* stream) override {
    v1::PrefillRequest request;
    while (stream->Read(&request)) prompt_came = true;
    return grpc::Status::CANCELLED;
  }

  std::atomic<bool> prompt_came{false};

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class GenerationTest : public ::testing::Test {
 protected:
  std::shared_ptr<Generation> NewGeneration() {
    const absl::Time now = MonotonicNow();
    return std::make_shared<Generation>(
        parts_.uses,
        Generation::Call{
            .id = "r", .client = "", .arrival = now, .deadline = now + absl::Minutes(1)});
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
    ASSERT_EQ(node_.pool->reserved_bytes(), 0u);
    ASSERT_EQ(node_.queue.waiting_tokens(), 0u);
  }
}

TEST_F(GenerationTest, APromptThatMemoryDoesNotHoldIsRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
#endif
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
  EXPECT_THAT(parts_.Metrics(), HasSubstr("kvship_decode_prefill_ejections_total 0"));
}

}  // namespace
}  // namespace kvship
