// When a call that failed before any output is made again: where no server took it or none had
// room, and inside the deadline. The Python client has the same rules. One per call; not thread
// safe.
#pragma once

#include <cstddef>
#include <optional>
#include <random>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

class Attempts {
 public:
  // `deadline` is of the monotonic clock.
  Attempts(size_t retries, absl::Time deadline) : retries_left_(retries), deadline_(deadline) {}

  // How long to wait before the next attempt; none where there must not be one. After
  // ResourceExhausted as long as the server said, after Unavailable a random part of a time that
  // doubles.
  std::optional<absl::Duration> DelayAfter(const absl::Status& error);

 private:
  size_t retries_left_;
  const absl::Time deadline_;
  absl::Duration delay_ = absl::Milliseconds(100);
  std::minstd_rand random_{std::random_device()()};
};

}  // namespace kvship
