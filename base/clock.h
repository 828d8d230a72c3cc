// Monotonic time, for durations, deadlines and waits, which must not jump with the wall clock; and
// its conversion to and from wall time. Thread safe.
#pragma once

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvship {

// Only differences of monotonic times are meaningful.
inline absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// Converts a monotonic time for waits of the standard library.
inline std::chrono::steady_clock::time_point ToSteadyTime(absl::Time monotonic) {
  return std::chrono::steady_clock::time_point(
      absl::ToChronoNanoseconds(monotonic - absl::UnixEpoch()));
}

// The wall clock as gRPC reads it; absl::Now() notices a jump up to two seconds late. Only for
// gRPC, whose deadlines are wall times when they are set or read, and times of its own monotonic
// clock in between.
inline absl::Time WallNow() { return absl::FromChrono(std::chrono::system_clock::now()); }
inline absl::Time ToWallTime(absl::Time monotonic) {
  return WallNow() + (monotonic - MonotonicNow());
}
inline absl::Time FromWallTime(absl::Time wall) { return MonotonicNow() + (wall - WallNow()); }

// Whether a peer that hangs up `now` does so because of its deadline, which is `deadline` by our
// clock. gRPC rounds a timeout up by up to 1 % when it sends it, and the timeout counts from its
// arrival, so the peer's deadline passes first.
inline bool GoesByDeadline(absl::Time arrival, absl::Time deadline, absl::Time now) {
  return now >= deadline - (deadline - arrival) / 100 - absl::Milliseconds(10);
}

}  // namespace kvship
