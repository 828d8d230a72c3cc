#include "client/retry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

std::vector<absl::Duration> FirstDelays(const absl::Status& error) {
  std::vector<absl::Duration> delays;
  for (int i = 0; i < 100; ++i) {
    delays.push_back(Attempts(1, absl::InfiniteFuture()).DelayAfter(error).value());
  }
  std::sort(delays.begin(), delays.end());
  return delays;
}

TEST(Attempts, ClientsThatWereRefusedTogetherDoNotComeBackTogether) {
  const absl::Status full = absl::ResourceExhaustedError("no room");
  for (const auto& [error, asked] :
       {std::pair(WithRetryDelay(full, absl::Seconds(4)), 4.0), std::pair(full, 1.0)}) {
    const std::vector<absl::Duration> delays = FirstDelays(error);
    EXPECT_GE(delays.front(), absl::Seconds(asked));
    EXPECT_LE(delays.back(), absl::Seconds(1.5 * asked));
    EXPECT_GT(delays.back() - delays.front(), absl::Seconds(0.25 * asked));
  }
}

TEST(Attempts, TheServersDelayIsWaitedWhereItFits) {
  const absl::Status full =
      WithRetryDelay(absl::ResourceExhaustedError("no room"), absl::Seconds(40));
  for (int i = 0; i < 100; ++i) {
    const auto delay = Attempts(1, MonotonicNow() + absl::Seconds(45)).DelayAfter(full);
    ASSERT_TRUE(delay.has_value());
    EXPECT_GE(*delay, absl::Seconds(40));
    EXPECT_LT(*delay, absl::Seconds(45));
  }
  EXPECT_EQ(Attempts(1, MonotonicNow() + absl::Seconds(39)).DelayAfter(full), std::nullopt);
}

}  // namespace
}  // namespace kvship
