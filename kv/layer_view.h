// What a finished layer of prefill shows to a compressor, and what a compressor asks for. Borrowed:
// valid until the engine's next step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/tensor_view.h"

namespace kvship {

// What a scorer needs of each layer beside keys and values; the engine delivers that and keeps
// nothing more.
struct LayerNeeds {
  // Queries of the positions [window_begin, window_end), with the log-sum-exp of their attention;
  // none if equal.
  size_t window_begin = 0;
  size_t window_end = 0;
  // Each key's attention from all queries of the prompt (h2o).
  bool column_sums = false;
  // Above 0: moments of the queries of the positions [moments_begin, T), as they are expected at
  // the `future_tokens` positions after the prompt (expected_attention).
  size_t future_tokens = 0;
  size_t moments_begin = 0;

  size_t num_window_queries() const { return window_end - window_begin; }
  // No query before this position is asked for; SIZE_MAX: none at all is.
  size_t first_query() const {
    size_t first = column_sums ? 0 : SIZE_MAX;
    if (num_window_queries() > 0) first = std::min(first, window_begin);
    if (future_tokens > 0) first = std::min(first, moments_begin);
    return first;
  }
};

// Of a prompt of `num_tokens` as many, from its beginning, as need no queries: the last one's give
// the logits.
inline size_t MostReused(size_t num_tokens, const LayerNeeds& needs) {
  return std::min(needs.first_query(), num_tokens - 1);
}

struct LayerView {
  size_t layer = 0;
  TensorView keys;            // [H, T, D] f32, after RoPE
  TensorView values;          // [H, T, D] f32
  TensorView window_queries;  // [Hq, W, D] f32, after RoPE
  TensorView window_lse;      // [Hq, W] f32, over all keys each query sees
  size_t window_begin = 0;
  // Sums over all queries of softmax(q.k / sqrt(D)): [Hq, T] f32.
  TensorView column_sums;
  // Mean and covariance (centred, divided by the number of queries) of queries before RoPE, turned
  // by R, the mean of the RoPE matrices of the future positions: R mu [Hq, D] and R Sigma R^T [Hq,
  // D, D] f32.
  TensorView query_mean;
  TensorView query_covariance;
};

}  // namespace kvship
