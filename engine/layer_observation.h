// LayerObservation collects what a prompt's scorer needs of a layer besides keys and values
// (LayerNeeds), while the layer is computed. Belongs to the thread of its run.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "base/tensor_view.h"
#include "engine/model_config.h"
#include "engine/query_moments.h"
#include "kernels/backend.h"
#include "kv/layer_view.h"

namespace kvship {

class LayerObservation {
 public:
  LayerObservation(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs);

  // Bytes that one instance holds.
  static size_t BytesFor(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs);

  // Resets for the next layer.
  void Clear();

  // Adds queries [M, Hq, D] f32 before RoPE, of the positions from `begin` on.
  absl::Status AddBeforeRope(Backend& backend, size_t begin, TensorView queries);

  // Whether attention is needed for any of the queries [begin, end).
  bool WantsAttention(size_t begin, size_t end) const {
    return needs_.column_sums || (begin < needs_.window_end && end > needs_.window_begin);
  }
  // Adds queries after RoPE [M, Hq, D], with the log-sum-exp of their attention [Hq, M]. Of the
  // prompt's keys [H, T, D], those before begin + M must be there.
  absl::Status AddAttention(Backend& backend, size_t begin, TensorView queries, TensorView lse,
                            TensorView keys);

  // Call it at the end of the layer.
  void Finish(Backend& backend);
  // Fills in all of `view` but layer, keys and values; valid until the next Clear.
  void ShowIn(LayerView* view);

 private:
  void KeepWindowQueries(size_t begin, TensorView queries, TensorView lse);

  size_t num_tokens_;
  size_t num_query_heads_;
  size_t head_dim_;
  LayerNeeds needs_;
  Buffer window_queries_;  // [Hq, W, D]
  Buffer window_lse_;      // [Hq, W]
  // Only if needed:
  Buffer column_sums_;       // [Hq, T]
  QueryMoments moments_;     // of the current layer
  Buffer query_mean_;        // [Hq, D] of the finished layer
  Buffer query_covariance_;  // [Hq, D, D]
};

}  // namespace kvship
