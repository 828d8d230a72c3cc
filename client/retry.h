// Attempts decides whether and when to retry a call that failed before any output: if no server
// accepted it or none had room, and within the deadline. The Python client has the same rules. One
// per call; not thread safe.
#pragma once

#include <cstddef>
#include <optional>
#include <random>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

class Attempts {
 public:
  // `deadline` is monotonic.
  Attempts(size_t retries, absl::Time deadline) : retries_left_(retries), deadline_(deadline) {}

  // Returns the delay before the next attempt; nullopt if there must be none. After
  // ResourceExhausted: what the server asked for, up to half as long again at random. After
  // Unavailable: a random part of a time that doubles.
  std::optional<absl::Duration> DelayAfter(const absl::Status& error);

 private:
  size_t retries_left_;
  const absl::Time deadline_;
  absl::Duration delay_ = absl::Milliseconds(100);
  std::minstd_rand random_{std::random_device()()};
};

}  // namespace kvship
