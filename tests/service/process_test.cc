#include "service/process.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <system_error>

#include "absl/time/clock.h"
#include "base/log.h"
#include "tests/eventually.h"
#include "tests/sanitized.h"
#include "tests/service/no_thread_left.h"
#include "tests/service/num_threads.h"

namespace kvship {
namespace {

TEST(StopSignals, OneIsHeededThoughTheSystemHasNoThreadLeft) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  const size_t num_threads_before = NumThreads();
  std::thread program([] {
    StopSignals signals;  // which only this thread, and what it makes, leaves alone
    signals.Wait(absl::Minutes(1));
  });
  // The program, and what ends it at a second signal.
  EXPECT_TRUE(Eventually([&] { return NumThreads() >= num_threads_before + 2; }));
  {
    const NoThreadLeft none;
    // It waits for it. NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread)
    pthread_kill(program.native_handle(), SIGTERM);
    program.join();
  }
}

TEST(ExitOnStopDeathTest, OneIsHeededWhileLoadingThoughTheSystemHasNoThreadLeft) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
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
