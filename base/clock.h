// The time that only goes on: for durations, deadlines and waits, which must not jump with the wall
// clock.
#pragma once

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvship {

// Only differences of such times mean anything.
inline absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// The same time for waits of the standard library.
inline std::chrono::steady_clock::time_point ToSteadyTime(absl::Time monotonic) {
  return std::chrono::steady_clock::time_point(
      absl::ToChronoNanoseconds(monotonic - absl::UnixEpoch()));
}

// The wall clock as gRPC reads it; absl::Now() notices a jump up to two seconds later. For gRPC,
// whose deadlines are of this clock where they are set or read, and of its own monotonic one in
// between.
inline absl::Time WallNow() { return absl::FromChrono(std::chrono::system_clock::now()); }
inline absl::Time ToWallTime(absl::Time monotonic) {
  return WallNow() + (monotonic - MonotonicNow());
}
inline absl::Time FromWallTime(absl::Time wall) { return MonotonicNow() + (wall - WallNow()); }

// Whether a peer that goes `now` goes because of its deadline, which was `deadline` here: gRPC
// rounds timeouts up by up to 1 % where it sends them, and they count from their arrival, so that
// the peer's clock comes first.
inline bool GoesByDeadline(absl::Time arrival, absl::Time deadline, absl::Time now) {
  return now >= deadline - (deadline - arrival) / 100 - absl::Milliseconds(10);
}

}  // namespace kvship
