#include "service/process.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <filesystem>
#include <iterator>
#include <system_error>

#include "absl/time/clock.h"
#include "base/log.h"
#include "tests/service/no_thread_left.h"

namespace kvship {
namespace {

size_t NumThreads() {
  namespace fs = std::filesystem;
  const fs::directory_iterator tasks("/proc/self/task");
  return static_cast<size_t>(std::distance(fs::begin(tasks), fs::end(tasks)));
}

TEST(StopSignals, OneIsHeededThoughTheSystemHasNoThreadLeft) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers make threads in a way of their own";
#endif
  const size_t num_threads_before = NumThreads();
  std::thread program([] {
    StopSignals signals;  // which only this thread, and what it makes, leaves alone
    signals.Wait(absl::Minutes(1));
  });
  // The program, and what ends it at a second signal.
  const absl::Time give_up = absl::Now() + absl::Seconds(5);
  while (NumThreads() < num_threads_before + 2 && absl::Now() < give_up) std::this_thread::yield();
  {
    const NoThreadLeft none;
    // It waits for it. NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread)
    pthread_kill(program.native_handle(), SIGTERM);
    program.join();
  }
}

TEST(ExitOnStopDeathTest, OneIsHeededWhileLoadingThoughTheSystemHasNoThreadLeft) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers make threads in a way of their own";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto stop_while_loading = [] {
    StartLog("kvship-test", LogFormat::kText);
    const StopSignals signals;
    const ExitOnStop exit_on_stop;
    const NoThreadLeft none;
    kill(getpid(), SIGTERM);
    absl::SleepFor(absl::Seconds(10));
  };
  EXPECT_EXIT(stop_while_loading(), ::testing::ExitedWithCode(0), "stopped while loading");
}

TEST(RunServer, WithoutThreadsItEndsWithExitCodeOne) {
  int exit_code = 0;
  std::thread program([&exit_code] {  // which has signals of its own
    exit_code = RunServer("kvship-test", {}, "text", [](StopSignals&) -> absl::Status {
      throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
    });
  });
  program.join();
  EXPECT_EQ(exit_code, 1);
}

}  // namespace
}  // namespace kvship
