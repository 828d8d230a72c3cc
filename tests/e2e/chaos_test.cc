// kill -9 at random moments under load. Each test prints its seed, with which it can be repeated:
// --gtest_random_seed=N.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/pools.h"

namespace kvship {
namespace {

using ::testing::IsEmpty;

enum class Victims { kPrefill, kDecode };

// gRPC's threads come and go with the load: at most this many above the first rest.
constexpr size_t kThreadSlack = 12;
constexpr size_t kDescriptorSlack = 6;

unsigned Seed() {
  const auto asked = static_cast<unsigned>(GTEST_FLAG_GET(random_seed));
  return asked != 0 ? asked : std::random_device{}() % 99999 + 1;
}

class Chaos {
 public:
  Chaos(Victims victims, size_t retries)
      : victims_(victims),
        random_(seed_),
        load_({.servers = pools_.decode_addresses(), .retries = retries, .seed = seed_}) {
    std::cout << "seed " << seed_ << "; again with --gtest_random_seed=" << seed_ << std::endl;
  }

  // Kills one of the victims, again and again, each time while requests are under way.
  void Kill(size_t times);

  std::map<std::string, size_t> outcomes() const { return load_.outcomes(); }

 private:
  struct Use {
    size_t descriptors = 0;
    size_t threads = 0;
  };

  Server& Node(Victims pool, size_t i) {
    return pool == Victims::kPrefill ? pools_.prefill(i) : pools_.decode(i);
  }
  Server& Survivor(size_t i) {
    return Node(victims_ == Victims::kPrefill ? Victims::kDecode : Victims::kPrefill, i);
  }
  void Pause(int most_ms) {
    absl::SleepFor(absl::Milliseconds(std::uniform_int_distribution<>(0, most_ms)(random_)));
  }
  // Once nobody asks for anything.
  void CheckRest(const std::vector<Use>& first);

  // Only when all are ready are answers undisturbed.
  struct ReadyPools : Pools {
    ReadyPools() { EXPECT_TRUE(WaitUntilReady()); }
  };
  const Victims victims_;
  const unsigned seed_ = Seed();
  std::mt19937 random_;
  ReadyPools pools_;
  CheckedLoad load_;
};

void Chaos::Kill(size_t times) {
  ASSERT_THAT(load_.faults(), IsEmpty());
  load_.Start();  // so that each process has all the threads and connections it needs
  absl::SleepFor(absl::Milliseconds(500));
  load_.Stop();
  std::vector<Use> first;
  for (size_t i = 0; i < Pools::kNodes; ++i) {
    first.push_back({Survivor(i).process.num_descriptors(), Survivor(i).process.num_threads()});
  }
  const absl::Time begun = MonotonicNow();
  for (size_t kill = 0; kill < times; ++kill) {
    SCOPED_TRACE(absl::StrCat("kill ", kill, ", seed ", seed_));
    Server& victim = Node(victims_, random_() % Pools::kNodes);
    load_.Start();
    Pause(200);
    victim.process.Signal(SIGKILL);
    Pause(300);
    load_.Stop();
    CheckRest(first);
    victim.process.Restart();
    ASSERT_TRUE(pools_.WaitUntilReady()) << victim.process.Errors();
    if (::testing::Test::HasFailure()) return;
  }
  std::cout << times << " kills in " << MonotonicNow() - begun
            << ", requests: " << absl::StrJoin(load_.outcomes(), ", ", absl::PairFormatter(" "))
            << std::endl;
}

void Chaos::CheckRest(const std::vector<Use>& first) {
  EXPECT_THAT(load_.faults(), IsEmpty());
  for (size_t i = 0; i < Pools::kNodes; ++i) {
    const Process& survivor = Survivor(i).process;
    EXPECT_EQ(pools_.LeftOver(Survivor(i)), "") << survivor.Errors();
    EXPECT_LE(survivor.num_descriptors(), first[i].descriptors + kDescriptorSlack);
    EXPECT_LE(survivor.num_threads(), first[i].threads + kThreadSlack);
  }
}

void KillPrefillNodes(size_t times) {
  Chaos chaos(Victims::kPrefill, /*retries=*/0);
  chaos.Kill(times);
  // The other node reads the prompt; the client does not notice.
  EXPECT_EQ(chaos.outcomes().size(), 1u);
  EXPECT_GT(chaos.outcomes()["OK"], 10 * times);
}

void KillDecodeNodes(size_t times) {
  Chaos chaos(Victims::kDecode, /*retries=*/3);
  chaos.Kill(times);
  EXPECT_GT(chaos.outcomes()["OK"], 10 * times);
  EXPECT_EQ(chaos.outcomes()["UNAVAILABLE"], 0u);
  EXPECT_GT(chaos.outcomes()["UNAVAILABLE in the middle"], 0u) << "no kill has hit an answer";
}

TEST(ChaosTest, KilledPrefillNodesCostNoRequest) { KillPrefillNodes(10); }

TEST(ChaosTest, KilledDecodeNodesCostOnlyAnswersThatHadBegun) { KillDecodeNodes(10); }

TEST(LongChaosTest, AHundredKilledPrefillNodesCostNoRequest) { KillPrefillNodes(100); }

TEST(LongChaosTest, AHundredKilledDecodeNodesCostOnlyAnswersThatHadBegun) { KillDecodeNodes(100); }

}  // namespace
}  // namespace kvship
