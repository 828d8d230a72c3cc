// Waits for what another thread or process does.
#pragma once

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace kvship {

// Asks again and again, more seldom as time goes by; false after `timeout`.
template <class Condition>
bool Eventually(const Condition& condition, absl::Duration timeout = absl::Seconds(20)) {
  const absl::Time give_up = MonotonicNow() + timeout;
  absl::Duration pause = absl::Milliseconds(1);
  while (!condition()) {
    if (MonotonicNow() > give_up) return false;
    absl::SleepFor(pause);
    pause = std::min(2 * pause, absl::Milliseconds(20));
  }
  return true;
}

}  // namespace kvship
