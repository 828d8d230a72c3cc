// ReadingRate is a moving average of a prefill node's reading speed. Not thread safe.
#pragma once

#include <algorithm>
#include <cstddef>

#include "absl/time/time.h"

namespace kvship {

class ReadingRate {
 public:
  // Records that a run has read `num_tokens` in `time`.
  void Note(size_t num_tokens, absl::Duration time) {
    const double newest =
        static_cast<double>(num_tokens) / std::max(absl::ToDoubleSeconds(time), 1e-6);
    mean_ = is_known() ? kNewestWeight * newest + (1 - kNewestWeight) * mean_ : newest;
  }

  // Estimates the time to read `num_tokens`; a guess until something was read.
  double SecondsFor(double num_tokens) const {
    return num_tokens / (is_known() ? mean_ : kFirstTokensPerSecond);
  }

  // The retry delay of a request that found `num_tokens` queued.
  absl::Duration RetryDelay(size_t num_tokens) const {
    if (!is_known()) return kShortestRetryDelay;
    return std::clamp(absl::Seconds(SecondsFor(static_cast<double>(num_tokens))),
                      kShortestRetryDelay, kLongestRetryDelay);
  }

 private:
  static constexpr double kNewestWeight = 0.3;
  static constexpr double kFirstTokensPerSecond = 1000;
  static constexpr absl::Duration kShortestRetryDelay = absl::Seconds(1);
  static constexpr absl::Duration kLongestRetryDelay = absl::Seconds(60);

  bool is_known() const { return mean_ > 0; }

  double mean_ = 0;  // tokens per second
};

}  // namespace kvship
