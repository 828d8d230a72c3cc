// Heartbeat tells how long a thread has given no sign of life, and whether what it works with is
// lost. Thread safe, and never waits: who looks after a thread that is stuck must not get stuck on
// what it holds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

class Heartbeat {
 public:
  // A thread that waits for work beats so often at least.
  static constexpr absl::Duration kPeriod = absl::Milliseconds(200);

  // Times the longest step: late enough that a step which is only slow has ended.
  static constexpr int kHopeless = 5;

  // Of the thread that is watched.
  void Beat() { last_.store(Now(), std::memory_order_relaxed); }

  // The device is lost: the thread goes on, but its work will fail for good.
  void LoseDevice() { device_lost_.store(true, std::memory_order_relaxed); }
  bool device_lost() const { return device_lost_.load(std::memory_order_relaxed); }

  // OK; Unavailable if `thread` has been silent for `most`, so long as it is; Internal if only a
  // new process helps: it has been silent for kHopeless times as long, or its device is lost.
  // `thread` is its name for people.
  absl::Status Check(absl::string_view thread, absl::Duration most) const {
    if (device_lost()) {
      return absl::InternalError("the GPU is lost: the process has to be started anew");
    }
    const absl::Duration silent = silence();
    if (silent < most) return absl::OkStatus();
    const std::string stuck = absl::StrFormat("%s has been in one step for %.0f s", thread,
                                              absl::ToDoubleSeconds(silent));
    if (silent < kHopeless * most) return absl::UnavailableError(stuck);
    return absl::InternalError(absl::StrCat(stuck, ": the process has to be started anew"));
  }

  // Since the last beat, or since it was made.
  absl::Duration silence() const {
    return absl::Nanoseconds(Now() - last_.load(std::memory_order_relaxed));
  }

 private:
  // Monotonic.
  static int64_t Now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

  std::atomic<int64_t> last_{Now()};
  std::atomic<bool> device_lost_{false};
};

// Whether a thread that is silent for `timeout` is stuck, and not just waiting for work.
// InvalidArgument naming the field if that is too short to tell.
inline absl::Status CheckStuckTimeout(absl::string_view field, absl::Duration timeout) {
  const absl::Duration kLeast = 2 * Heartbeat::kPeriod;
  if (timeout >= kLeast) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", absl::FormatDuration(timeout),
                                                 "; wanted at least ",
                                                 absl::FormatDuration(kLeast)));
}

}  // namespace kvship
