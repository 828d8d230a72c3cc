#include "decode_service/work_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "rpc/errors.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WorkQueueTest : public ::testing::Test {
 protected:
  WorkQueueTest() {
    Enter("blocking", [this] {
      runs_.set_value();
      may_go_on_.get_future().get();
    });
    runs_.get_future().get();
  }

  // Waits behind the one that is running.
  size_t Enter(const std::string& client, int number) {
    return Enter(client, [this, number] { ran_.push_back(number); });
  }
  size_t Enter(const std::string& client, WorkQueue::Task task, size_t num_bytes = 1) {
    return queue_->Enter(client, num_bytes, std::move(task)).value();
  }

  // The order in which those run that wait.
  std::vector<int> Run() {
    may_go_on_.set_value();
    queue_.reset();
    return ran_;
  }

  std::promise<void> runs_, may_go_on_;
  std::vector<int> ran_;
  static constexpr size_t kMostBytes = 100;
  std::optional<WorkQueue> queue_{std::in_place, /*num_threads=*/1, kMostBytes};
};

TEST_F(WorkQueueTest, ClientsTakeTurnsAndEachIsServedInItsOrder) {
  for (const int number : {1, 2, 3, 4}) Enter("many", number);
  Enter("", 5);
  Enter("few", 6);
  Enter("few", 7);
  EXPECT_THAT(Run(), ElementsAre(6, 1, 5, 7, 2, 3, 4));
}

TEST_F(WorkQueueTest, WhoLeavesIsForgottenAndTakesNoTurn) {
  const auto held = std::make_shared<int>();
  const size_t place = Enter("a", [held] { ++*held; });
  Enter("a", 1);
  Enter("b", 2);
  EXPECT_FALSE(queue_->Leave("b", place));
  EXPECT_TRUE(queue_->Leave("a", place));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(queue_->Leave("a", place));
  EXPECT_THAT(Run(), ElementsAre(1, 2));
  EXPECT_EQ(*held, 0);
}

TEST_F(WorkQueueTest, WhoseTurnHasComeCannotLeave) {
  EXPECT_FALSE(queue_->Leave("blocking", 0));
  EXPECT_THAT(Run(), IsEmpty());
}

TEST_F(WorkQueueTest, WhatWaitsIsBoundedButForOne) {
  const auto nothing = [] {};
  const size_t large = Enter("a", nothing, 3 * kMostBytes);
  const absl::Status full = queue_->Enter("b", 1, nothing).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_EQ(full.message(),
            "requests of 300 bytes wait to be looked at, and this one has 1; this server keeps at "
            "most 100");
  EXPECT_TRUE(RetryDelayOf(full).has_value());
  EXPECT_TRUE(queue_->Leave("a", large));
  Enter("a", nothing, kMostBytes - 1);
  Enter("b", 1);
  EXPECT_FALSE(queue_->Enter("b", 1, nothing).ok());
  EXPECT_THAT(Run(), ElementsAre(1));
}

TEST(WorkQueueThreads, OneThatTakesLongHoldsUpNoOther) {
  std::promise<void> may_end, other_ran;  // in use until the threads have ended
  WorkQueue queue(/*num_threads=*/2, /*most_bytes=*/100);
  ASSERT_TRUE(queue.Enter("a", 1, [&] { may_end.get_future().get(); }).ok());
  ASSERT_TRUE(queue.Enter("a", 1, [&] { other_ran.set_value(); }).ok());
  other_ran.get_future().get();
  may_end.set_value();
}

}  // namespace
}  // namespace kvship
