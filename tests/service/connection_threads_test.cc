#include "service/connection_threads.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <future>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/eventually.h"
#include "tests/sanitized.h"
#include "tests/service/no_thread_left.h"
#include "tests/service/num_threads.h"

namespace kvship {
namespace {

TEST(ConnectionThreadsTest, NoMoreRunAtOnceThanAllowedAndAllAreRun) {
  ConnectionThreads threads(3);
  std::atomic<int> running{0}, most{0}, done{0};
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(threads.Run([&] {
      const int now = ++running;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      absl::SleepFor(absl::Milliseconds(1));
      --running;
      ++done;
    }));
  }
  threads.Stop();
  EXPECT_EQ(done, 50);
  EXPECT_LE(most, 3);
  EXPECT_FALSE(threads.Run([] {}));
}

TEST(ConnectionThreadsTest, WhatSeveralGiveAtOnceIsAllRun) {
  constexpr int kGivers = 4;
  constexpr int kEach = 500;
  std::atomic<int> num_run = 0;
  ConnectionThreads threads(kGivers * kEach);
  std::vector<std::thread> givers;
  for (int i = 0; i < kGivers; ++i) {
    givers.emplace_back([&] {
      for (int j = 0; j < kEach; ++j) EXPECT_TRUE(threads.Run([&num_run] { ++num_run; }));
    });
  }
  for (std::thread& giver : givers) giver.join();
  threads.Stop();
  EXPECT_EQ(num_run, kGivers * kEach);
}

TEST(ConnectionThreadsTest, WhoWaitsIsSeenAndLetGoByStop) {
  ConnectionThreads threads(1);
  std::promise<void> finish;
  threads.Run([&] { finish.get_future().wait(); });
  std::promise<bool> ran;
  std::thread waiting([&] { ran.set_value(threads.Run([] {})); });
  while (!threads.crowded()) std::this_thread::yield();
  std::thread stopping([&] { threads.Stop(); });
  EXPECT_FALSE(ran.get_future().get());
  finish.set_value();
  waiting.join();
  stopping.join();
}

TEST(ConnectionThreadsTest, WhereTheSystemHasNoThreadLeftConnectionsTakeTurns) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  ConnectionThreads threads(64, /*idle_time=*/absl::Milliseconds(1));
  ASSERT_TRUE(threads.Run([] {}));
  absl::SleepFor(absl::Milliseconds(100));  // the last thread does not end
  constexpr int kConnections = 5;
  int num_run = 0;
  const NoThreadLeft none;
  for (int i = 0; i < kConnections; ++i) {
    EXPECT_TRUE(threads.Run([&] {
      // Those without a request give way.
      if (++num_run < kConnections)
        while (!threads.crowded()) std::this_thread::yield();
    }));
  }
  threads.Stop();
  EXPECT_EQ(num_run, kConnections);
}

TEST(ConnectionThreadsTest, AConnectionThatWaitsGetsAThreadOnceTheSystemHasOne) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  ConnectionThreads threads(64);
  std::promise<void> second_runs;
  ASSERT_TRUE(threads.Run([&] { second_runs.get_future().wait(); }));
  std::latch is_limited(1);
  std::thread giving([&] {
    is_limited.wait();
    EXPECT_TRUE(threads.Run([&] { second_runs.set_value(); }));
  });
  {
    const NoThreadLeft none;
    is_limited.count_down();
    while (!threads.crowded()) std::this_thread::yield();
  }
  giving.join();
  threads.Stop();
  EXPECT_FALSE(threads.crowded());
}

// Has `num_threads` connections at once, and returns when they have ended.
void Burst(ConnectionThreads& threads, int num_threads) {
  std::latch all_run(num_threads), all_ended(num_threads);
  for (int i = 0; i < num_threads; ++i) {
    ASSERT_TRUE(threads.Run([&] {
      all_run.arrive_and_wait();
      all_ended.count_down();
    }));
  }
  all_ended.wait();
}

TEST(ConnectionThreadsTest, ThreadsThatAreNotUsedEndButOneAndOthersAreMadeAgain) {
  ConnectionThreads threads(64, /*idle_time=*/absl::Milliseconds(50));
  // With one of them, and what a sanitizer makes when the first is made.
  Burst(threads, 1);
  const size_t num_with_one = NumThreads();
  for (int i = 0; i < 2; ++i) {
    Burst(threads, 64);
    EXPECT_TRUE(Eventually([&] { return NumThreads() <= num_with_one; }));
    EXPECT_EQ(NumThreads(), num_with_one);
  }
}

TEST(ConnectionThreadsTest, NoConnectionIsLostBetweenThreadsThatEnd) {
  ConnectionThreads threads(2, /*idle_time=*/absl::Microseconds(50));
  std::atomic<int> num_run = 0;
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(threads.Run([&num_run] { ++num_run; }));
    absl::SleepFor(absl::Microseconds(i % 100));
  }
  threads.Stop();
  EXPECT_EQ(num_run, 2000);
}

TEST(ConnectionThreadsTest, AConnectionWakesOneThreadHoweverManyAreIdle) {
  constexpr int kThreads = 100;
  constexpr int kConnections = 200;
  ConnectionThreads threads(kThreads);
  Burst(threads, kThreads);
  const auto num_switches = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
  };
  const long num_before = num_switches();
  for (int i = 0; i < kConnections; ++i) {
    const auto ran = std::make_shared<std::promise<void>>();  // in use while we go on
    ASSERT_TRUE(threads.Run([ran] { ran->set_value(); }));
    ran->get_future().wait();
  }
  // The thread's, this one's, and where they meet at a lock.
  EXPECT_LT(num_switches() - num_before, kConnections * 10);
}

}  // namespace
}  // namespace kvship
