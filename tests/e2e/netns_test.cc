// A prefill and a decode process in two network namespaces, while the link between them is slow,
// loses packets, or is cut.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/random.h"
#include "tests/e2e/netns_link.h"
#include "tests/e2e/processes.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr int kPort = 7000;
constexpr absl::Duration kDeadline = absl::Seconds(20);

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
    link_->In(0, [this] {
      prefill_ = std::make_unique<Process>("kvship-prefill", WithModel("--admin=127.0.0.1:7001"));
    });
    link_->In(1, [this] {
      std::vector<std::string> flags = WithModel("--admin=127.0.0.1:7001");
      flags.push_back("--http=");
      flags.push_back(absl::StrCat("--prefill=", NetnsLink::AddressOf(0), ":", kPort));
      decode_ = std::make_unique<Process>("kvship-decode", flags);
    });
    ASSERT_TRUE(DecodeIsReady()) << prefill_->Errors() << decode_->Errors();
    for (const bool sampled : {false, true}) {
      answers_.push_back(Ask(sampled).tokens);
      ASSERT_EQ(answers_.back().size(), 16u);
    }
  }

  static std::vector<std::string> WithModel(const std::string& flag) {
    return {absl::StrCat("--model=", kModel), "--threads=1", "--insecure",
            absl::StrCat("--listen=:", kPort), flag};
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
    link_->In(1, [&] { ready = Eventually([] { return !HttpGet(7001, "/readyz").empty(); }); });
    return ready;
  }
  double DecodeMetric(const std::string& name) const {
    double value = 0;
    link_->In(1, [&] { value = Metric(7001, name); });
    return value;
  }
  void ExpectNothingIsLeft() const {
    EXPECT_TRUE(Eventually([&] { return DecodeMetric("kvship_decode_pool_reserved_bytes") == 0; }));
    EXPECT_EQ(DecodeMetric("kvship_decode_waiting_prompt_tokens"), 0);
    EXPECT_TRUE(Eventually(
        [this] {
          double queued = 0;
          link_->In(0, [&] { queued = Metric(7001, "kvship_prefill_queue_tokens"); });
          return queued == 0;
        },
        absl::Seconds(60)));
  }

  const TempFolder folder_;
  std::string prompt_;
  std::unique_ptr<NetnsLink> link_;
  std::unique_ptr<Process> prefill_;
  std::unique_ptr<Process> decode_;
  std::vector<std::vector<uint64_t>> answers_;  // greedy, sampled
};

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
    EXPECT_LT(answer.taken, kDeadline + absl::Seconds(10)) << answer.error;
  }
  link_->SetCut(false);
  EXPECT_TRUE(Eventually([this] { return Ask(false).tokens == answers_[0]; }, absl::Seconds(60)));
  EXPECT_TRUE(IsRight(/*sampled=*/true));
  ExpectNothingIsLeft();
}

}  // namespace
}  // namespace kvship
