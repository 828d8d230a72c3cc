// ReadingRate estimates how fast a prefill node reads: a moving average of the time per token, in
// which a run counts by its tokens. Runs that read little take their time for other things (each
// layer's weights are unpacked, and the reused tokens' K and V are copied and attended to), however
// many come; they count only until a longer run has shown the rate. Not thread safe.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/time/time.h"
#include "kv/prefix_digests.h"

namespace kvship {

class ReadingRate {
 public:
  // Records that a run has read `num_tokens`, at least one, in `time`, with `num_reused` from the
  // prefix cache.
  void Note(size_t num_tokens, size_t num_reused, absl::Duration time) {
    const bool is_long = num_tokens >= std::max(kLeastTokens, num_reused);
    if (knows_long_ && !is_long) return;
    const double tokens = static_cast<double>(num_tokens);
    const double newest = std::max(absl::ToDoubleSeconds(time), 1e-6) / tokens;
    const bool is_first = seconds_per_token_ == 0 || is_long != knows_long_;
    const double weight = is_first ? 1 : 1 - std::exp2(-tokens / kHalfLifeTokens);
    seconds_per_token_ += weight * (newest - seconds_per_token_);
    knows_long_ = is_long;
  }

  // Estimates the time to read `num_tokens`; a guess until something was read.
  double SecondsFor(double num_tokens) const {
    return num_tokens * (is_known() ? seconds_per_token_ : kFirstSecondsPerToken);
  }

  // The retry delay of a request that found `num_tokens` left to read.
  absl::Duration RetryDelay(size_t num_tokens) const {
    if (!is_known()) return kShortestRetryDelay;
    return std::clamp(absl::Seconds(SecondsFor(static_cast<double>(num_tokens))),
                      kShortestRetryDelay, kLongestRetryDelay);
  }

 private:
  // A block of the prefix cache: what a run reuses, some run has read that counts.
  static constexpr size_t kLeastTokens = kPrefixBlockTokens;
  // A few prompts of ordinary length: follows what else the machine does, and no single run.
  static constexpr double kHalfLifeTokens = 8192;
  static constexpr double kFirstSecondsPerToken = 1e-3;
  static constexpr absl::Duration kShortestRetryDelay = absl::Seconds(1);
  static constexpr absl::Duration kLongestRetryDelay = absl::Seconds(60);

  bool is_known() const { return seconds_per_token_ > 0; }

  double seconds_per_token_ = 0;
  bool knows_long_ = false;  // it is that of long runs
};

}  // namespace kvship
