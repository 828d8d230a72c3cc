// DeviceObservation is the GPU's LayerObservation: it collects in device memory what a prompt's
// scorer needs of a layer besides keys and values, while the layer is computed. Operations enqueue
// work and return at once. Belongs to the thread and the stream of its run.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/prompt_attention.h"
#include "kv/device_layer.h"
#include "kv/layer_view.h"

namespace kvship::cuda {

class DeviceObservation {
 public:
  // Bytes of device memory that one instance takes.
  static size_t BytesFor(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs) {
    return TotalBytes(Sizes(config, num_tokens, needs));
  }

  // For a prompt of `num_tokens`. ResourceExhausted if the device has no room.
  static absl::StatusOr<std::unique_ptr<DeviceObservation>> Create(const ModelConfig& config,
                                                                   size_t num_tokens,
                                                                   const LayerNeeds& needs,
                                                                   cudaStream_t stream);

  // Resets for the next layer.
  absl::Status Clear();

  // Adds a block of queries, before norm and RoPE.
  absl::Status AddBeforeRope(const RopeArgs& block);

  // Whether attention is needed for any of the queries [begin, end).
  bool WantsAttention(size_t begin, size_t end) const {
    return needs_.column_sums || (begin < needs_.window_end && end > needs_.window_begin);
  }
  // Adds a block of queries whose attention and log-sum-exp have been computed.
  absl::Status AddAttention(const PromptAttentionArgs& block);

  // Call it at the end of the layer.
  absl::Status Finish();
  // Fills in all of `view` but layer, dtype, keys and values; valid until the next Clear.
  void ShowIn(DeviceLayerView* view) const;

 private:
  DeviceObservation(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs,
                    cudaStream_t stream)
      : config_(config), num_tokens_(num_tokens), needs_(needs), stream_(stream) {}

  static BufferSizes<DeviceObservation> Sizes(const ModelConfig& config, size_t num_tokens,
                                              const LayerNeeds& needs);
  absl::Status FillMeanTurns();
  absl::Status KeepWindow(const PromptAttentionArgs& block);
  absl::Status AddColumnSums(const PromptAttentionArgs& block);

  const ModelConfig& config_;
  const size_t num_tokens_;  // T
  const LayerNeeds needs_;
  const cudaStream_t stream_;
  DeviceBuffer window_queries_;  // [Hq, W, D]
  DeviceBuffer window_lse_;      // [Hq, W]
  // Only if needed:
  DeviceBuffer column_sums_;       // [Hq, T] f32
  DeviceBuffer query_sums_;        // [Hq, D] f64 of the current layer
  DeviceBuffer query_products_;    // [Hq, D, D] f64
  DeviceBuffer mean_turns_;        // [D / 2, 2] f64
  DeviceBuffer query_mean_;        // [Hq, D] f32 of the finished layer
  DeviceBuffer query_covariance_;  // [Hq, D, D] f32

  std::vector<double> host_turns_;  // which the copy to mean_turns_ may still read
};

}  // namespace kvship::cuda
