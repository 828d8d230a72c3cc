#include "decode_service/recent_requests.h"

#include <gtest/gtest.h>

#include "base/clock.h"

namespace kvship {
namespace {

TEST(RecentRequests, KeepsTheLastSixteenTheNewestFirst) {
  RecentRequests recent;
  EXPECT_TRUE(recent.Newest().empty());
  for (int i = 0; i < 20; ++i) {
    recent.Add({.request_id = std::to_string(i),
                .ended = MonotonicNow(),
                .report = {},
                .receive_time = {}});
  }
  const auto newest = recent.Newest();
  ASSERT_EQ(newest.size(), 16u);
  EXPECT_EQ(newest.front().request_id, "19");
  EXPECT_EQ(newest.back().request_id, "4");
}

}  // namespace
}  // namespace kvship
