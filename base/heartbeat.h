// Heartbeat tells how long a thread has given no sign of life. Thread safe, and never waits: who
// looks after a thread that is stuck must not get stuck on what it holds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

class Heartbeat {
 public:
  // A thread that waits for work beats so often at least.
  static constexpr absl::Duration kPeriod = absl::Milliseconds(200);

  // Of the thread that is watched.
  void Beat() { last_.store(Now(), std::memory_order_relaxed); }

  // Since the last beat, or since it was made.
  absl::Duration silence() const {
    return absl::Nanoseconds(Now() - last_.load(std::memory_order_relaxed));
  }

 private:
  // Monotonic.
  static int64_t Now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

  std::atomic<int64_t> last_{Now()};
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
