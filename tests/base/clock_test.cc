#include "base/clock.h"

#include <gtest/gtest.h>

namespace kvship {
namespace {

TEST(ClockTest, WhoGoesAHundredthOfItsTimeBeforeOurDeadlineGoesByIt) {
  const absl::Time arrival = absl::UnixEpoch();
  const absl::Time deadline = arrival + absl::Seconds(100);
  const absl::Time earliest = deadline - absl::Seconds(1) - absl::Milliseconds(10);
  EXPECT_FALSE(GoesByDeadline(arrival, deadline, arrival));
  EXPECT_FALSE(GoesByDeadline(arrival, deadline, earliest - absl::Milliseconds(1)));
  EXPECT_TRUE(GoesByDeadline(arrival, deadline, earliest));
  EXPECT_TRUE(GoesByDeadline(arrival, deadline, deadline + absl::Seconds(1)));
}

TEST(ClockTest, WhoHasNoDeadlineGoesByNone) {
  EXPECT_FALSE(GoesByDeadline(MonotonicNow(), absl::InfiniteFuture(), MonotonicNow()));
}

}  // namespace
}  // namespace kvship
