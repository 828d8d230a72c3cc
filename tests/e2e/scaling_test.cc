// What a second node of each pool is worth: output tokens per second under a load that saturates
// one prefill and one decode process, and then two of each. Every process has its share of the
// machine's processors, as a pod with a limit has, so that four do not get in each other's way.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/random.h"
#include "client/generation_client.h"
#include "rpc/compression.h"
#include "tests/e2e/control_group.h"
#include "tests/e2e/processes.h"
#include "tests/needed.h"

namespace kvship {
namespace {

constexpr double kLeastSpeedup = 1.8;

// Of the machine's processors: the clients take the rest. None has more than its one thread uses.
double ProcessorsOfEach() { return std::min(1.0, 0.2 * std::thread::hardware_concurrency()); }

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

// A server with a limit on its processors.
struct LimitedServer {
  LimitedServer(const std::string& program, const std::vector<std::string>& flags)
      : group(ControlGroup::OfProcessors(ProcessorsOfEach())),
        server(program, KVSHIP_DEMO_MODEL, flags) {
    group->Add(server.pid());
  }
  const std::unique_ptr<ControlGroup> group;
  Server server;
};

double OutputTokensPerSecond(size_t num_nodes) {
  std::vector<std::unique_ptr<LimitedServer>> prefill, decode;
  std::vector<std::string> addresses;
  const std::vector<std::string> prefill_flags = {"--threads=1"};
  for (size_t i = 0; i < num_nodes; ++i) {
    prefill.push_back(std::make_unique<LimitedServer>("kvship-prefill", prefill_flags));
    addresses.push_back(prefill.back()->server.address());
  }
  const std::vector<std::string> decode_flags = {
      "--threads=1", absl::StrCat("--prefill=", absl::StrJoin(addresses, ","))};
  for (size_t i = 0; i < num_nodes; ++i) {
    decode.push_back(std::make_unique<LimitedServer>("kvship-decode", decode_flags));
  }
  for (const auto& node : prefill) EXPECT_TRUE(node->server.WaitUntilReady());
  std::vector<std::unique_ptr<Clients>> clients;
  for (const auto& node : decode) {
    EXPECT_TRUE(node->server.WaitUntilReady()) << node->server.process.Errors();
    clients.push_back(std::make_unique<Clients>(node->server.address()));
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
  if (ControlGroup::OfProcessors(ProcessorsOfEach()) == nullptr) {
    GTEST_SKIP() << "this account may make no control group for processors here";
  }
  const double one = OutputTokensPerSecond(1);
  const double two = OutputTokensPerSecond(2);
  std::cout << "output tokens per second, each process with " << ProcessorsOfEach()
            << " of a processor: 1 + 1 nodes " << one << ", 2 + 2 nodes " << two << ", "
            << two / one << " times as many" << std::endl;
  EXPECT_GE(two / one, kLeastSpeedup);
}

}  // namespace
}  // namespace kvship
