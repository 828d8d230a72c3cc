// The time that only goes on: for durations and orders, which must not jump with the wall clock.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace kvship {

// Only differences of such times mean anything.
inline absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace kvship
