// kill -9 at random moments under load. Each test prints its seed, with which it can be repeated:
// --gtest_random_seed=N.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/pools.h"

namespace kvship {
namespace {

using ::testing::IsEmpty;

enum class Victims { kPrefill, kDecode };

// Of the decode nodes, for requests that have none.
constexpr absl::Duration kServerDeadline = absl::Seconds(3);

unsigned Seed() {
  const auto asked = static_cast<unsigned>(GTEST_FLAG_GET(random_seed));
  return asked != 0 ? asked : std::random_device{}() % 99999 + 1;
}

class Chaos {
 public:
  Chaos(Victims victims, size_t retries)
      : victims_(victims),
        random_(seed_),
        load_({.servers = pools_.decode_addresses(),
               .retries = retries,
               .seed = seed_,
               .server_deadline = kServerDeadline}) {
    std::cout << "seed " << seed_ << "; again with --gtest_random_seed=" << seed_ << std::endl;
  }

  // Kills one of the victims, again and again, each time while requests are under way.
  void Kill(size_t times);

  std::map<std::string, size_t> outcomes() const { return load_.outcomes(); }

 private:
  Server& Victim(size_t i) {
    return victims_ == Victims::kPrefill ? pools_.prefill(i) : pools_.decode(i);
  }
  void Pause(int most_ms) {
    absl::SleepFor(absl::Milliseconds(std::uniform_int_distribution<>(0, most_ms)(random_)));
  }
  // Once nobody asks for anything: of all but the victim, of its own pool and the other.
  void CheckSurvivors(const Server& victim);
  void PrintRest() const;

  // Only when all are ready are answers undisturbed.
  struct ReadyPools : Pools {
    ReadyPools()
        : Pools({absl::StrCat("--default_deadline=", absl::FormatDuration(kServerDeadline))}) {
      EXPECT_TRUE(WaitUntilReady());
    }
  };
  const Victims victims_;
  const unsigned seed_ = Seed();
  std::mt19937 random_;
  ReadyPools pools_;
  CheckedLoad load_;
  // Of each process that has been through a load.
  std::map<const Server*, AtRest> rests_;
};

void Chaos::Kill(size_t times) {
  ASSERT_THAT(load_.faults(), IsEmpty());
  load_.Start();  // so that each process has all the threads and connections it needs
  absl::SleepFor(absl::Seconds(2));
  load_.Stop();
  const absl::Time begun = MonotonicNow();
  for (size_t kill = 0; kill < times; ++kill) {
    SCOPED_TRACE(absl::StrCat("kill ", kill, ", seed ", seed_));
    Server& victim = Victim(random_() % Pools::kNodes);
    rests_.erase(&victim);
    load_.Start();
    Pause(200);
    victim.process.Signal(SIGKILL);
    Pause(300);
    load_.Stop();
    CheckSurvivors(victim);
    victim.process.Restart();
    ASSERT_TRUE(pools_.WaitUntilReady()) << victim.process.Errors();
    if (::testing::Test::HasFailure()) return;
  }
  std::cout << times << " kills in " << MonotonicNow() - begun
            << ", requests: " << absl::StrJoin(load_.outcomes(), ", ", absl::PairFormatter(" "))
            << "; with the server's deadline: "
            << absl::StrJoin(load_.undated_outcomes(), ", ", absl::PairFormatter(" ")) << std::endl;
  EXPECT_GT(load_.undated_outcomes()["OK"], 0u);
  PrintRest();
}

void Chaos::CheckSurvivors(const Server& victim) {
  EXPECT_THAT(load_.faults(), IsEmpty());
  for (const Server* node : pools_.nodes()) {
    if (node == &victim) continue;
    const AtRest& rest = rests_.try_emplace(node, *node).first->second;
    EXPECT_EQ(rest.LeftOver(), "") << node->process.Errors();
  }
}

void Chaos::PrintRest() const {
  for (const auto& [node, rest] : rests_) std::cout << "at rest: " << rest.Text() << std::endl;
}

void KillPrefillNodes(size_t times) {
  Chaos chaos(Victims::kPrefill, /*retries=*/0);
  chaos.Kill(times);
  // The other node reads the prompt; the client does not notice.
  EXPECT_EQ(chaos.outcomes().size(), 1u);
  EXPECT_GT(chaos.outcomes()["OK"], 5 * times);
}

void KillDecodeNodes(size_t times) {
  Chaos chaos(Victims::kDecode, /*retries=*/3);
  chaos.Kill(times);
  EXPECT_GT(chaos.outcomes()["OK"], 5 * times);
  EXPECT_EQ(chaos.outcomes()["UNAVAILABLE"], 0u);
  EXPECT_GT(chaos.outcomes()["UNAVAILABLE in the middle"], 0u) << "no kill has hit an answer";
}

TEST(ChaosTest, KilledPrefillNodesCostNoRequest) { KillPrefillNodes(10); }

TEST(ChaosTest, KilledDecodeNodesCostOnlyAnswersThatHadBegun) { KillDecodeNodes(10); }

TEST(LongChaosTest, AHundredKilledPrefillNodesCostNoRequest) { KillPrefillNodes(100); }

TEST(LongChaosTest, AHundredKilledDecodeNodesCostOnlyAnswersThatHadBegun) { KillDecodeNodes(100); }

}  // namespace
}  // namespace kvship
