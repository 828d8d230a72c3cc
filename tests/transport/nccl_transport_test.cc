#include "transport/nccl_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "absl/strings/match.h"
#include "base/clock.h"
#include "tests/transport/fake_nccl.h"
#include "transport/nccl_cuda.h"

namespace kvship {
namespace {

// Far longer than anything here takes on the busiest machine.
constexpr absl::Duration kNever = absl::Minutes(5);

// Counts answers, and waits for them.
class Answers {
 public:
  std::function<void(const absl::Status&)> Next() {
    return [this](const absl::Status& status) {
      const std::lock_guard lock(mutex_);
      ++(status.ok() ? num_ok_ : num_failed_);
      change_.notify_all();
    };
  }
  void Await(size_t num_ok, size_t num_failed) {
    std::unique_lock lock(mutex_);
    change_.wait(lock, [&] { return num_ok_ == num_ok && num_failed_ == num_failed; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable change_;
  size_t num_ok_ = 0, num_failed_ = 0;
};

class NcclTransportTest : public ::testing::Test {
 protected:
  ~NcclTransportTest() override { EXPECT_THAT(network_.violations(), ::testing::IsEmpty()); }

  std::unique_ptr<NcclTransport> Start(const std::shared_ptr<FakeNccl::Gpu>& gpu) {
    return NcclTransport::Create(gpu, {.connect_timeout = kNever}).value();
  }

  static uint64_t Connect(NcclExecutor& sender, NcclExecutor& receiver) {
    const NcclUniqueId id = sender.Invite("decode").value();
    EXPECT_TRUE(receiver.Accept("prefill", id).ok());
    for (NcclExecutor* executor : {&sender, &receiver}) {
      while (executor->Snapshot().peers.at(0).state != NcclState::kReady) {
        executor->AwaitChange(executor->num_changes(), absl::Milliseconds(10));
      }
    }
    return NcclCommunicatorNumber(id);
  }

  FakeNccl network_{MonotonicNow};
};

TEST_F(NcclTransportTest, TheThreadsMoveWhatManyRequestsOffer) {
  constexpr size_t kNumRequests = 4, kPerRequest = 50, kNumBytes = 1000;
  const auto prefill = Start(network_.NewGpu("prefill"));
  const auto decode = Start(network_.NewGpu("decode"));
  const uint64_t communicator = Connect(prefill->executor(), decode->executor());
  Answers answers;
  std::vector<std::vector<std::byte>> sources, targets;
  for (size_t i = 0; i < kNumRequests * kPerRequest; ++i) {
    sources.emplace_back(kNumBytes, static_cast<std::byte>(i));
    targets.emplace_back(kNumBytes);
  }
  const auto request = [&](size_t first) {
    for (size_t i = first; i < first + kPerRequest; ++i) {
      const absl::Time deadline = MonotonicNow() + kNever;
      const NcclOffer offer = prefill->executor().Offer("decode", communicator, deadline).value();
      EXPECT_TRUE(
          decode->executor()
              .Receive("prefill", offer,
                       {.bytes = targets[i], .deadline = deadline, .on_done = answers.Next()})
              .ok());
      EXPECT_TRUE(prefill->executor()
                      .Send("decode", offer,
                            {.bytes = sources[i], .deadline = deadline, .on_done = answers.Next()})
                      .ok());
    }
  };
  std::vector<std::thread> requests;
  for (size_t i = 0; i < kNumRequests; ++i) requests.emplace_back(request, i * kPerRequest);
  for (std::thread& one : requests) one.join();
  answers.Await(2 * kNumRequests * kPerRequest, 0);
  EXPECT_EQ(sources, targets);
}

TEST_F(NcclTransportTest, TheWatchingThreadKeepsTheDeadlines) {
  const auto prefill = Start(network_.NewGpu("prefill"));
  const auto decode_gpu = network_.NewGpu("decode");
  const auto decode = Start(decode_gpu);
  const uint64_t communicator = Connect(prefill->executor(), decode->executor());
  decode_gpu->Die(false);
  Answers answers;
  std::vector<std::byte> bytes(10);
  const NcclOffer offer =
      prefill->executor().Offer("decode", communicator, MonotonicNow() + kNever).value();
  ASSERT_TRUE(prefill->executor()
                  .Send("decode", offer,
                        {.bytes = bytes,
                         .deadline = MonotonicNow() + absl::Milliseconds(20),
                         .on_done = answers.Next()})
                  .ok());
  answers.Await(0, 1);
}

TEST_F(NcclTransportTest, AnEndIsReachedThoughAnAbortHangs) {
  const auto gpu = network_.NewGpu("prefill");
  auto prefill = Start(gpu);
  auto decode = Start(network_.NewGpu("decode"));
  Connect(prefill->executor(), decode->executor());
  gpu->SetAbortsHang(true);
  const std::weak_ptr<NcclExecutor> left_behind = prefill->executor().weak_from_this();
  prefill.reset();
  EXPECT_FALSE(left_behind.expired());
  gpu->SetAbortsHang(false);
  while (const auto executor = left_behind.lock()) {
    executor->AwaitClosed(absl::Milliseconds(10));
  }
}

TEST(NcclEnvironmentTest, PairsAreMadeWithoutWhatOnlyCollectivesNeed) {
  if (absl::StrContains(CreateNcclLibrary({}).status().message(), "without NCCL")) {
    GTEST_SKIP() << "this build is without NCCL";
  }
  unsetenv("NCCL_NVLS_ENABLE");
  PrepareNcclEnvironment();
  EXPECT_STREQ(getenv("NCCL_NVLS_ENABLE"), "0");
}

}  // namespace
}  // namespace kvship
