// LayerView is what a compressor sees of a layer that prefill has just finished; LayerNeeds is what
// the compressor asks for. Plain data; views are borrowed and valid until the engine's next step.
#pragma once

#include <algorithm>
#include <cstddef>

#include "base/tensor_view.h"

namespace kvship {

// What a scorer needs of each layer besides keys and values. The engine delivers this and keeps
// nothing more.
struct LayerNeeds {
  // The queries at positions [window_begin, window_end) and the log-sum-exp of their attention.
  // None if the two are equal.
  size_t window_begin = 0;
  size_t window_end = 0;
  // The attention that each key gets from all queries of the prompt (h2o).
  bool column_sums = false;
  // If above 0: moments of the queries at positions [moments_begin, T), as expected at the
  // `future_tokens` positions after the prompt (expected_attention).
  size_t future_tokens = 0;
  size_t moments_begin = 0;

  size_t num_window_queries() const { return window_end - window_begin; }
  // The first position whose query is needed; SIZE_MAX if none is.
  size_t first_query() const {
    size_t first = column_sums ? 0 : SIZE_MAX;
    if (num_window_queries() > 0) first = std::min(first, window_begin);
    if (future_tokens > 0) first = std::min(first, moments_begin);
    return first;
  }
};

// How many tokens at the start of a prompt of `num_tokens` can be reused from a prefix cache. Their
// queries must not be needed; the last token's always is, for the logits.
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
  // Sums of softmax(q.k / sqrt(D)) over all queries: [Hq, T] f32.
  TensorView column_sums;
  // Mean and covariance (centred, divided by the number of queries) of the queries before RoPE,
  // rotated by R, the mean of the RoPE matrices of the future positions:
  // R mu [Hq, D] f32 and R Sigma R^T [Hq, D, D] f32.
  TensorView query_mean;
  TensorView query_covariance;
};

}  // namespace kvship
