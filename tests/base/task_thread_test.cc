#include "base/task_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace kvship {
namespace {

using ::testing::ElementsAre;

TEST(TaskThreadTest, RunsTasksInOrderAndWhatIsLeftAtTheEnd) {
  std::vector<int> ran;
  {
    TaskThread thread;
    for (int i = 0; i < 4; ++i) thread.Run([&ran, i] { ran.push_back(i); });
  }
  EXPECT_THAT(ran, ElementsAre(0, 1, 2, 3));
}

TEST(TaskThreadTest, ATaskMayBringAnother) {
  std::vector<int> ran;
  {
    TaskThread thread;
    thread.Run([&] {
      ran.push_back(1);
      thread.Run([&ran] { ran.push_back(2); });
    });
  }
  EXPECT_THAT(ran, ElementsAre(1, 2));
}

}  // namespace
}  // namespace kvship
