// A prefill and a decode process in two network namespaces, while the link between them is slow,
// loses packets, or is cut.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/random.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/netns_link.h"
#include "tests/e2e/processes.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::ContainsRegex;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr int kPort = 7000;
constexpr int kAdminPort = 7001;
constexpr absl::Duration kDeadline = absl::Seconds(20);
// How late a client process may end on a busy machine.
constexpr absl::Duration kLateness = absl::Seconds(10);
// The client program says it in words: another attempt, or more time.
constexpr char kRetriable[] =
    "no prefill node|prefill node was lost or not reached|[Dd]eadline|the timeout of .* has passed";

class NetnsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto link = NetnsLink::Create();
    if (!link.ok()) GTEST_SKIP() << "no network namespaces here: " << link.status().message();
    link_ = *std::move(link);
    std::vector<uint64_t> tokens;
    for (size_t i = 0; i < 400; ++i) tokens.push_back(RandomBits(1, i) % 320);
    prompt_ = folder_.Write("prompt.json", absl::StrCat("[", absl::StrJoin(tokens, ","), "]"));
    // Nothing protects a network of the test's own.
    link_->In(0, [this] { prefill_ = std::make_unique<Process>("kvship-prefill", WithModel()); });
    link_->In(1, [this] {
      std::vector<std::string> flags = WithModel();
      flags.push_back("--http=");
      flags.push_back(absl::StrCat("--prefill=", NetnsLink::AddressOf(0), ":", kPort));
      decode_ = std::make_unique<Process>("kvship-decode", flags);
    });
    ASSERT_TRUE(DecodeIsReady()) << prefill_->Errors() << decode_->Errors();
    for (const bool sampled : {false, true}) {
      answers_.push_back(Ask(sampled).tokens);
      ASSERT_EQ(answers_.back().size(), 16u);
    }
    RunClients(absl::Seconds(1), [] {});  // so that both have all threads that they need
    link_->In(0, [this] { rests_.emplace_back(prefill_->pid(), kAdminPort); });
    link_->In(1, [this] { rests_.emplace_back(decode_->pid(), kAdminPort); });
  }

  static std::vector<std::string> WithModel() {
    return {absl::StrCat("--model=", kModel), "--threads=1", "--insecure",
            absl::StrCat("--listen=:", kPort), absl::StrCat("--admin=127.0.0.1:", kAdminPort)};
  }

  struct Answer {
    int exit_code = 0;
    std::string error;
    std::vector<uint64_t> tokens;
    absl::Duration taken;
  };
  // Asks the decode process from within its namespace.
  Answer Ask(bool sampled) const {
    Answer answer;
    const absl::Time begin = MonotonicNow();
    link_->In(1, [&] {
      Process client("kvship", {"generate", absl::StrCat("--server=127.0.0.1:", kPort), "--json",
                                absl::StrCat("--tokens_file=", prompt_), "--max_tokens=16",
                                absl::StrCat("--temperature=", sampled ? 1 : 0), "--seed=3",
                                "--ignore_end", "--compression=scorer=keep_all,encoder=f32",
                                absl::StrCat("--timeout=", absl::FormatDuration(kDeadline))});
      answer.exit_code = client.Wait(3 * kDeadline);
      answer.error = client.Errors();
      const auto json = nlohmann::json::parse(client.Output(), nullptr, /*allow_exceptions=*/false);
      if (json.is_object()) answer.tokens = json["tokens"].get<std::vector<uint64_t>>();
    });
    answer.taken = MonotonicNow() - begin;
    return answer;
  }
  bool IsRight(bool sampled) const {
    const Answer answer = Ask(sampled);
    EXPECT_EQ(answer.exit_code, 0) << answer.error;
    return answer.tokens == answers_[sampled];
  }

  bool DecodeIsReady() const {
    bool ready = false;
    link_->In(1,
              [&] { ready = Eventually([] { return !HttpGet(kAdminPort, "/readyz").empty(); }); });
    return ready;
  }
  // Four clients at a time ask for one answer after the other while `disturb` runs again and again,
  // for at least `duration`. Each answer must be right, or its error tell what to do.
  void RunClients(absl::Duration duration, const std::function<void()>& disturb);
  void ExpectNothingIsLeft() const {
    for (size_t end = 0; end < rests_.size(); ++end) {
      link_->In(end, [&] { EXPECT_EQ(rests_[end].LeftOver(), ""); });
      std::cout << (end == 0 ? "prefill: " : "decode: ") << rests_[end].Text() << std::endl;
    }
  }

  const TempFolder folder_;
  std::string prompt_;
  std::unique_ptr<NetnsLink> link_;
  std::unique_ptr<Process> prefill_;
  std::unique_ptr<Process> decode_;
  std::vector<std::vector<uint64_t>> answers_;  // greedy, sampled
  std::atomic<size_t> num_right_{0};
  std::atomic<size_t> num_told_{0};  // to try again
  std::vector<AtRest> rests_;        // of both processes
};

void NetnsTest::RunClients(absl::Duration duration, const std::function<void()>& disturb) {
  constexpr size_t kClients = 4;
  std::atomic<bool> stop{false};
  std::vector<std::thread> clients;
  for (size_t c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      for (size_t i = c; !stop; ++i) {
        const Answer answer = Ask(/*sampled=*/i % 2 == 1);
        EXPECT_LT(answer.taken, kDeadline + kLateness) << answer.error;
        if (answer.exit_code == 0) {
          EXPECT_EQ(answer.tokens, answers_[i % 2]);
          ++num_right_;
        } else {
          EXPECT_THAT(answer.error, ContainsRegex(kRetriable));
          ++num_told_;
        }
      }
    });
  }
  const absl::Time end = MonotonicNow() + duration;
  while (MonotonicNow() < end && !HasFailure()) disturb();
  stop = true;
  for (std::thread& client : clients) client.join();
}

TEST_F(NetnsTest, CutsDelaysAndLossAtAnyMomentGiveNoWrongTokenAndLeaveNothing) {
  uint64_t draw = 0;
  const auto below = [&draw](uint64_t bound) { return RandomBits(/*seed=*/11, draw++) % bound; };
  size_t num_cuts = 0;
  RunClients(absl::Seconds(15), [&] {
    link_->SetDelay(absl::Milliseconds(below(60)));
    link_->SetLoss(static_cast<double>(below(10)) / 100);
    absl::SleepFor(absl::Milliseconds(below(400)));
    link_->SetCut(true);
    ++num_cuts;
    // Most are shorter than it takes to notice them.
    absl::SleepFor(absl::Milliseconds(below(8) == 0 ? 2500 : below(250)));
    link_->SetCut(false);
  });
  link_->SetDelay(absl::ZeroDuration());
  link_->SetLoss(0);
  std::cout << num_cuts << " cuts, " << link_->num_lost_packets() << " packets lost; " << num_right_
            << " answers, " << num_told_ << " told to try again" << std::endl;
  EXPECT_GT(num_right_, 0u);
  EXPECT_TRUE(Eventually([this] { return Ask(false).tokens == answers_[0]; }, absl::Minutes(1)));
  ExpectNothingIsLeft();
}

TEST_F(NetnsTest, DelayAndLossCostTimeAndNothingElse) {
  link_->SetDelay(absl::Milliseconds(40));
  link_->SetLoss(0.05);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(IsRight(/*sampled=*/i % 2 == 1));
  EXPECT_GT(link_->num_lost_packets(), 0u);
  ExpectNothingIsLeft();
}

TEST_F(NetnsTest, ACutLinkEndsRequestsInTimeAndItsReturnIsNoticed) {
  link_->SetCut(true);
  for (int i = 0; i < 2; ++i) {
    const Answer answer = Ask(/*sampled=*/i % 2 == 1);
    EXPECT_NE(answer.exit_code, 0);
    EXPECT_TRUE(answer.tokens.empty());
    EXPECT_LT(answer.taken, kDeadline + kLateness) << answer.error;
  }
  link_->SetCut(false);
  EXPECT_TRUE(Eventually([this] { return Ask(false).tokens == answers_[0]; }, absl::Seconds(60)));
  EXPECT_TRUE(IsRight(/*sampled=*/true));
  ExpectNothingIsLeft();
}

}  // namespace
}  // namespace kvship
