// How many sessions one decode pool holds, with real processes: what compression saves becomes
// requests served at a time.
#include <gtest/gtest.h>

#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/random.h"
#include "rpc/compression.h"
#include "tests/e2e/processes.h"
#include "tests/e2e/stream.h"
#include "tests/needed.h"

namespace kvship {
namespace {

constexpr size_t kPoolBytes = size_t{96} << 20;
constexpr size_t kPromptTokens = 1000;
constexpr size_t kOutputTokens = 64;
// SmolLM2-135M: keys and values of 30 layers with 3 KV heads of 64 channels, in f16.
constexpr double kTokenBytes = 2 * 30 * 3 * 64 * 2;

// Of a stream of which nothing is read: its session stands still with all its pages, as each token
// brings much to be read.
v1::GenerateRequest HeldRequest(uint64_t seed, const std::string& compression) {
  v1::GenerateRequest request;
  for (size_t i = 0; i < kPromptTokens; ++i) {
    request.mutable_tokens()->add_ids(RandomBits(seed, i) % 40000);
  }
  *request.mutable_compression() = *CompressionFromText(compression);
  request.set_max_tokens(kOutputTokens);
  request.set_ignore_end_tokens(true);
  request.set_logprobs(20);
  return request;
}

class DemoModelCapacityTest : public ::testing::TestWithParam<int> {};

TEST_P(DemoModelCapacityTest, PoolHoldsNineTenthsOfTheSessionsThatItsBytesAllow) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  Server prefill("kvship-prefill", KVSHIP_DEMO_MODEL, {"--threads=2"});
  Server decode(
      "kvship-decode", KVSHIP_DEMO_MODEL,
      {absl::StrCat("--prefill=", prefill.address()), "--threads=2",
       absl::StrCat("--pool_bytes=", kPoolBytes), "--max_unread_tokens=4", "--stall_timeout=1h"});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());

  const int factor = GetParam();
  // Of a token and head in int4: K and V, scales, position.
  constexpr double kCompactBytes = 64.0 + 64.0 / 4 + 4;
  const std::string compression =
      absl::StrCat("encoder=int4,min_tokens=0,budget_ratio=", 2 * 64 * 2 / kCompactBytes / factor);
  std::vector<std::unique_ptr<Stream>> held;
  const auto num_running = [&] {
    return static_cast<size_t>(decode.metric("kvship_decode_sessions"));
  };
  // Nobody reads a prompt for the last one, so that it waits for room.
  const auto waits_for_room = [&] {
    return decode.metric("kvship_decode_waiting_prompt_tokens") > 0 &&
           prefill.metric("kvship_prefill_queue_tokens") == 0 && num_running() < held.size();
  };
  const auto runs = [&] { return num_running() == held.size(); };
  bool full = false;
  while (!full) {
    held.push_back(std::make_unique<Stream>(
        decode, HeldRequest(held.size(), compression),
        Stream::Options{.timeout = absl::InfiniteDuration(), .reads = false}));
    while (!runs() && !full) {
      ASSERT_TRUE(Eventually([&] { return runs() || waits_for_room(); }, absl::Minutes(5)));
      if (runs()) break;
      // It also looks so for a moment before the prefill node has heard of it.
      absl::SleepFor(absl::Seconds(1));
      full = waits_for_room();
    }
  }
  const double session_bytes = kTokenBytes * (1.0 * kPromptTokens / factor + kOutputTokens);
  const double allowed = kPoolBytes / session_bytes;
  std::cout << absl::StrFormat("%dx fewer bytes: %d sessions at a time, %.1f by their bytes\n",
                               factor, num_running(), allowed);
  EXPECT_GE(static_cast<double>(num_running()), 0.9 * allowed);

  held.clear();
  EXPECT_TRUE(Eventually([&] { return decode.metric("kvship_decode_pool_reserved_bytes") == 0; }));
}

INSTANTIATE_TEST_SUITE_P(TimesFewerBytes, DemoModelCapacityTest, ::testing::Values(4, 8, 16),
                         [](const auto& info) { return absl::StrCat(info.param); });

}  // namespace
}  // namespace kvship
