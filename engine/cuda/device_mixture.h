// DeviceMixture runs rows of activations through the experts of a layer, on the GPU. It holds
// scratch memory for an engine's layers; it and its stream belong to one thread.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/cuda/device_transformer.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/product.h"

namespace kvship::cuda {

class DeviceMixture {
 public:
  // Creates one for decode (AddStep) or for prompts (AddBlock); the other must not be called. Takes
  // up to `max_tokens` at a time of a model that has experts. Borrows model and products.
  // ResourceExhausted if the device has no room.
  enum class Use { kDecode, kPrompts };
  static absl::StatusOr<std::unique_ptr<DeviceMixture>> Create(const DeviceTransformer& model,
                                                               Products& products, Use use,
                                                               size_t max_tokens);

  // Tokens that go through the experts of a layer: their normed activations are the input, and the
  // results are added to their residual streams. Device memory, of the model's dtype.
  struct Batch {
    size_t layer = 0;
    const std::byte* normed = nullptr;  // [M, C]
    std::byte* residual = nullptr;      // [M, C]
    size_t num_tokens = 0;              // M
  };

  // Enqueues a decode step; may be captured.
  absl::Status AddStep(cudaStream_t stream, const Batch& batch);

  // Runs a block of a prompt. If experts have many rows each, cuBLASLt multiplies them, and the
  // host waits for the stream to learn the row counts.
  absl::Status AddBlock(cudaStream_t stream, const Batch& batch);

 private:
  DeviceMixture(const DeviceTransformer& model, Products& products)
      : model_(model), products_(products) {}

  GroupByExpertArgs Grouping(size_t num_tokens, size_t multiple) const;
  // Chooses experts and groups the rows.
  absl::Status Spread(cudaStream_t stream, const Batch& batch, const GroupByExpertArgs& grouping);
  absl::Status Gate(cudaStream_t stream, size_t num_rows);
  absl::Status Collect(cudaStream_t stream, const Batch& batch);

  const DeviceTransformer& model_;
  Products& products_;
  // K of E experts for each of M tokens, in up to P rows.
  DeviceBuffer logits_;     // [M, E] f32
  DeviceBuffer experts_;    // [M, K] uint32
  DeviceBuffer weights_;    // [M, K] f32
  DeviceBuffer positions_;  // [M, K] uint32
  DeviceBuffer runs_;       // [E] ExpertRows
  DeviceBuffer rows_;       // [P, C], first inputs, then results
  DeviceBuffer gate_up_;    // [P, 2 F]
  DeviceBuffer gated_;      // [P, F]
  PinnedBuffer host_runs_;  // [E] ExpertRows; for prompts
};

}  // namespace kvship::cuda
