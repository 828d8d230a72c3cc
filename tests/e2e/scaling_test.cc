// What a second node of each pool is worth: output tokens per second under a load that saturates
// one prefill and one decode process, and then two of each. Every process computes on one thread.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/random.h"
#include "client/generation_client.h"
#include "rpc/compression.h"
#include "tests/e2e/processes.h"
#include "tests/needed.h"

namespace kvship {
namespace {

// Four processes of one thread each, what gRPC does around them, and the clients.
constexpr unsigned kLeastThreads = 8;
constexpr double kLeastSpeedup = 1.8;
// With fewer the processes share the processors, and the whole must not become much slower.
constexpr double kLeastSpeedupWithoutThreads = 0.7;

constexpr absl::Duration kWarmUp = absl::Seconds(10);
constexpr absl::Duration kMeasured = absl::Seconds(40);

// Reads and writes take about as long as each other, so that neither pool rests.
constexpr size_t kPromptTokens = 96;
constexpr size_t kOutputTokens = 48;
constexpr size_t kClientsPerNode = 12;

// Clients of one decode node that ask it for one answer after the other until they are destroyed.
class Clients {
 public:
  explicit Clients(const std::string& server) : client_(server) {
    for (size_t i = 0; i < kClientsPerNode; ++i) threads_.emplace_back([this, i] { Run(i); });
  }
  ~Clients() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

  size_t num_tokens() const { return num_tokens_; }

 private:
  void Run(uint64_t seed) {
    v1::GenerateRequest request;
    for (size_t i = 0; i < kPromptTokens; ++i) {
      request.mutable_tokens()->add_ids(static_cast<uint32_t>(RandomBits(seed, i) % 40'000));
    }
    *request.mutable_compression() = *CompressionFromText("budget_ratio=0.25,encoder=f16");
    request.set_max_tokens(kOutputTokens);
    request.set_ignore_end_tokens(true);
    while (!stop_) {
      const auto report =
          client_.Generate(request, absl::Minutes(5), [this](const v1::GenerateResponse& response) {
            num_tokens_ += static_cast<size_t>(response.output().tokens_size());
          });
      EXPECT_TRUE(report.ok()) << report.status();
      if (!report.ok()) return;
    }
  }

  GenerationClient client_;
  std::atomic<bool> stop_{false};
  std::atomic<size_t> num_tokens_{0};
  std::vector<std::thread> threads_;
};

double OutputTokensPerSecond(size_t num_nodes) {
  std::vector<std::unique_ptr<Server>> prefill, decode;
  std::vector<std::string> addresses;
  for (size_t i = 0; i < num_nodes; ++i) {
    prefill.push_back(std::make_unique<Server>("kvship-prefill", KVSHIP_DEMO_MODEL,
                                               std::vector<std::string>{"--threads=1"}));
    addresses.push_back(prefill.back()->address());
  }
  const std::vector<std::string> flags = {
      "--threads=1", absl::StrCat("--prefill=", absl::StrJoin(addresses, ","))};
  for (size_t i = 0; i < num_nodes; ++i) {
    decode.push_back(std::make_unique<Server>("kvship-decode", KVSHIP_DEMO_MODEL, flags));
  }
  for (const auto& node : prefill) EXPECT_TRUE(node->WaitUntilReady());
  std::vector<std::unique_ptr<Clients>> clients;
  for (const auto& node : decode) {
    EXPECT_TRUE(node->WaitUntilReady()) << node->process.Errors();
    clients.push_back(std::make_unique<Clients>(node->address()));
  }
  const auto num_tokens = [&clients] {
    size_t sum = 0;
    for (const auto& of_node : clients) sum += of_node->num_tokens();
    return sum;
  };
  absl::SleepFor(kWarmUp);
  const size_t before = num_tokens();
  const absl::Time begin = MonotonicNow();
  absl::SleepFor(kMeasured);
  return static_cast<double>(num_tokens() - before) / absl::ToDoubleSeconds(MonotonicNow() - begin);
}

TEST(LongScalingTest, TwoNodesOfEachPoolServeTheDemoModelAlmostTwiceAsFast) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " KVSHIP_DEMO_MODEL;
  const unsigned threads = std::thread::hardware_concurrency();
  const bool has_threads = threads >= kLeastThreads;
  if (!has_threads && std::getenv("KVSHIP_SCALE_ANYWHERE") == nullptr) {
    GTEST_SKIP() << "four processes need " << kLeastThreads << " hardware threads, here are "
                 << threads << "; KVSHIP_SCALE_ANYWHERE=1 runs it all the same";
  }
  const double one = OutputTokensPerSecond(1);
  const double two = OutputTokensPerSecond(2);
  std::cout << "output tokens per second on " << threads << " hardware threads: 1 + 1 nodes " << one
            << ", 2 + 2 nodes " << two << ", " << two / one << " times as many" << std::endl;
  EXPECT_GE(two / one, has_threads ? kLeastSpeedup : kLeastSpeedupWithoutThreads);
}

}  // namespace
}  // namespace kvship
