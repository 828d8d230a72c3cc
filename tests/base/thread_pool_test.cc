#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include "base/out_of_memory.h"
#include "tests/address_limit.h"
#include "tests/sanitized.h"

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

TEST(ThreadPool, WhatABodyThrowsComesOutWhereTheLoopWasCalled) {
  for (size_t thrower : {0, 1}) {
    ThreadPool pool(2);
    std::atomic<bool> thrown = false;
    const absl::Status status = UnlessOutOfMemory([&] {
      pool.ParallelForWithThread(2, [&](size_t, size_t thread) {
        if (thread == thrower) {
          thrown = true;
          throw std::bad_alloc();
        }
        while (!thrown) std::this_thread::yield();
      });
      return absl::OkStatus();
    });
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  }
}

TEST(ThreadPool, ThrowsOnlyWhenNoBodyRunsAnyMoreAndBeginsNoFurtherTask) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 200; ++loop) {
    std::atomic<size_t> begun = 0, ended = 0;
    EXPECT_THROW(pool.ParallelFor(100000,
                                  [&](size_t i) {
                                    ++begun;
                                    if (i % 2 == 1) throw std::runtime_error("odd");
                                    std::this_thread::yield();
                                    ++ended;
                                  }),
                 std::runtime_error);
    // All but those that threw, one per thread at most.
    EXPECT_LE(begun - ended, 3u);
    EXPECT_LT(begun, 1000u);
  }
}

TEST(ThreadPool, RunsTheNextLoopAsEverAfterOneThatThrew) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 1000; ++loop) {
    EXPECT_THROW(pool.ParallelFor(8, [](size_t) { throw std::bad_alloc(); }), std::bad_alloc);
    std::atomic<size_t> sum = 0;
    pool.ParallelFor(8, [&](size_t i) { sum += i; });
    ASSERT_EQ(sum, 28u);
  }
}

TEST(ThreadPool, WhereTheSystemHasNotAsManyThreadsItThrows) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
  const AddressLimit limit(size_t{64} << 20);  // stacks take 8 MiB each
  EXPECT_THROW(ThreadPool(64), std::system_error);
}

}  // namespace
}  // namespace kvship
