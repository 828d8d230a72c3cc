#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace kvship {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (size_t num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    std::vector<std::atomic<int>> runs(1000);
    pool.ParallelFor(runs.size(), [&](size_t i) { ++runs[i]; });
    for (const auto& n : runs) ASSERT_EQ(n, 1);
  }
}

TEST(ThreadPool, ManySmallLoopsEndWithAllTheirWorkDone) {
  ThreadPool pool(3);
  std::atomic<size_t> sum = 0;
  for (size_t loop = 0; loop < 20000; ++loop) {
    pool.ParallelFor(4, [&](size_t i) { sum += i; });
    ASSERT_EQ(sum, (loop + 1) * 6);
  }
}

TEST(ThreadPool, WakesAfterItsThreadsFellAsleep) {
  ThreadPool pool(3);
  std::atomic<size_t> runs = 0;
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.ParallelFor(16, [&](size_t) { ++runs; });
  }
  EXPECT_EQ(runs, 320u);
}

TEST(ThreadPool, ThreadNumbersStayBelowTheirCount) {
  ThreadPool pool(4);
  pool.ParallelForWithThread(500, [&](size_t, size_t thread) { ASSERT_LT(thread, 4u); });
}

}  // namespace
}  // namespace kvship
