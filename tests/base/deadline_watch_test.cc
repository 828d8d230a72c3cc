#include "base/deadline_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <vector>

#include "base/clock.h"

namespace kvship {
namespace {

TEST(DeadlineWatchTest, CallsInTheOrderOfDeadlinesAndNotBefore) {
  std::vector<int> order;
  std::promise<void> last;  // in use until the watch has ended
  DeadlineWatch watch;
  const absl::Time now = MonotonicNow();
  const absl::Time late = now + absl::Milliseconds(60);
  watch.Add(late, [&] {
    order.push_back(3);
    last.set_value();
  });
  watch.Add(now + absl::Milliseconds(20), [&] { order.push_back(1); });
  watch.Add(now + absl::Milliseconds(40), [&] { order.push_back(2); });
  last.get_future().wait();
  EXPECT_GE(MonotonicNow(), late);
  EXPECT_THAT(order, ::testing::ElementsAre(1, 2, 3));
}

TEST(DeadlineWatchTest, WhatIsRemovedOrLeftAtTheEndIsNotCalled) {
  bool called = false;
  {
    std::promise<void> after;
    DeadlineWatch watch;
    const absl::Time now = MonotonicNow();
    const auto key = watch.Add(now + absl::Milliseconds(10), [&] { called = true; });
    watch.Remove(key);
    watch.Remove(key);
    watch.Add(now + absl::Milliseconds(20), [&] { after.set_value(); });
    watch.Add(now + absl::Hours(1), [&] { called = true; });
    after.get_future().wait();
  }
  EXPECT_FALSE(called);
}

TEST(DeadlineWatchTest, ACallbackMayAddAndRemove) {
  std::promise<void> done;
  DeadlineWatch watch;
  watch.Add(MonotonicNow(), [&] {
    watch.Remove(watch.Add(MonotonicNow(), [] {}));
    watch.Add(MonotonicNow(), [&] { done.set_value(); });
  });
  done.get_future().wait();
}

}  // namespace
}  // namespace kvship
