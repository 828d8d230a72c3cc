// Heartbeat tells how long a thread has been silent, and whether its device is lost. Thread safe
// and lock-free: whoever watches a stuck thread must not wait for a lock that it holds.
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
  // The longest time between two beats of a thread that waits for work.
  static constexpr absl::Duration kPeriod = absl::Milliseconds(200);

  // A silence of this many times the longest step is hopeless: a step that is only slow has ended.
  static constexpr int kHopeless = 5;

  // Called by the watched thread.
  void Beat() { last_.store(Now(), std::memory_order_relaxed); }

  // Records that the device is lost: the thread continues, but all its work will fail.
  void LoseDevice() { device_lost_.store(true, std::memory_order_relaxed); }
  bool device_lost() const { return device_lost_.load(std::memory_order_relaxed); }

  // OK; Unavailable while `thread` has been silent for `most` or longer; Internal if only a new
  // process helps: the silence is kHopeless times as long, or the device is lost. `thread` is its
  // name for people.
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

  // The time since the last beat, or since construction.
  absl::Duration silence() const {
    return absl::Nanoseconds(Now() - last_.load(std::memory_order_relaxed));
  }

 private:
  // Monotonic.
  static int64_t Now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

  std::atomic<int64_t> last_{Now()};
  std::atomic<bool> device_lost_{false};
};

// InvalidArgument naming the field if `timeout` is too short to tell a stuck thread from one that
// waits for work.
inline absl::Status CheckStuckTimeout(absl::string_view field, absl::Duration timeout) {
  const absl::Duration kLeast = 2 * Heartbeat::kPeriod;
  if (timeout >= kLeast) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", absl::FormatDuration(timeout),
                                                 "; wanted at least ",
                                                 absl::FormatDuration(kLeast)));
}

}  // namespace kvship
