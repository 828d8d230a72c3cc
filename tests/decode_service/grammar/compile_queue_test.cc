#include "decode_service/grammar/compile_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <vector>

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CompileQueueTest : public ::testing::Test {
 protected:
  CompileQueueTest() {
    std::promise<void> runs;
    queue_->Enter("blocking", [this, &runs] {
      runs.set_value();
      may_go_on_.get_future().get();
    });
    runs.get_future().get();
  }

  // Waits behind the one that is running.
  size_t Enter(const std::string& client, int number) {
    return queue_->Enter(client, [this, number] { ran_.push_back(number); });
  }

  // The order in which those run that wait.
  std::vector<int> Run() {
    may_go_on_.set_value();
    queue_.reset();
    return ran_;
  }

  std::promise<void> may_go_on_;
  std::vector<int> ran_;
  std::optional<CompileQueue> queue_{std::in_place};
};

TEST_F(CompileQueueTest, ClientsTakeTurnsAndEachIsServedInItsOrder) {
  for (const int number : {1, 2, 3, 4}) Enter("many", number);
  Enter("", 5);
  Enter("few", 6);
  Enter("few", 7);
  EXPECT_THAT(Run(), ElementsAre(6, 1, 5, 7, 2, 3, 4));
}

TEST_F(CompileQueueTest, WhoLeavesIsForgottenAndTakesNoTurn) {
  const auto held = std::make_shared<int>();
  const size_t place = queue_->Enter("a", [held] { ++*held; });
  Enter("a", 1);
  Enter("b", 2);
  EXPECT_FALSE(queue_->Leave("b", place));
  EXPECT_TRUE(queue_->Leave("a", place));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(queue_->Leave("a", place));
  EXPECT_THAT(Run(), ElementsAre(1, 2));
  EXPECT_EQ(*held, 0);
}

TEST_F(CompileQueueTest, WhoseTurnHasComeCannotLeave) {
  EXPECT_FALSE(queue_->Leave("blocking", 0));
  EXPECT_THAT(Run(), IsEmpty());
}

}  // namespace
}  // namespace kvship
