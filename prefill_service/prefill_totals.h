// PrefillTotals holds sizes and times of one prompt on the prefill node so far. Plain data.
#pragma once

#include <cstddef>

#include "absl/time/time.h"

namespace kvship {

struct PrefillTotals {
  double kept_tokens = 0;  // per head: mean over heads and layers
  size_t shipped_bytes = 0;
  size_t reused_tokens = 0;  // known at the end
  absl::Duration queue_time = {};
  absl::Duration prefill_time = {};  // without compress_time; known at the end
  absl::Duration compress_time = {};
  // Monotonic; InfiniteFuture if not reached.
  absl::Time compute_begin = absl::InfiniteFuture();
  absl::Time compute_end = absl::InfiniteFuture();
  absl::Time compress_begin = absl::InfiniteFuture();  // of the first layer
  absl::Time compress_end = absl::InfiniteFuture();    // of the last one
};

}  // namespace kvship
