// DeviceTokens selects each head's own best tokens of a layer on a GPU: AllocateTokens() of
// compress/allocator.h, then the selector "tokens". One per request; belongs to one thread and one
// stream.
#pragma once

#include <cuda_runtime.h>

#include "absl/status/statusor.h"
#include "compress/cuda/compact_device_layer.h"
#include "kernels/cuda/buffer.h"
#include "kv/compression_options.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship::cuda {

class DeviceTokens {
 public:
  // Bytes of device memory that one instance takes.
  static size_t BytesFor(const CompressionOptions& options, const KvPlan& plan) {
    return TotalBytes(Sizes(options, plan));
  }

  // ResourceExhausted if the device is out of memory.
  static absl::StatusOr<DeviceTokens> Create(const CompressionOptions& options,
                                             const KvShape& shape, const KvPlan& plan,
                                             cudaStream_t stream);

  // Enqueues the selection for a layer: writes the positions of `compact`, and its offsets if they
  // are not yet known. Device memory: scores [H, T] f32, rows `row_stride` elements apart,
  // overwritten with the scores that the selection used; attention [Hq, T] from DeviceScorer's
  // WindowAttention(). Tokens without a score have -infinity. Errors: the kernels'.
  absl::Status Select(size_t layer, float* scores, size_t row_stride, const float* attention,
                      const CompactDeviceLayer& compact);

 private:
  DeviceTokens(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan,
               cudaStream_t stream)
      : options_(options), shape_(shape), plan_(plan), stream_(stream) {}

  static BufferSizes<DeviceTokens> Sizes(const CompressionOptions& options, const KvPlan& plan);

  // Both fill the offsets of `compact`.
  absl::Status ShareByScores(const HeadBudget& budget, const float* scores, size_t row_stride,
                             const CompactDeviceLayer& compact);
  absl::Status CountForMass(const HeadBudget& budget, const float* scores, size_t row_stride,
                            const float* attention, const CompactDeviceLayer& compact);

  // Tokens chosen by score, and always-kept tokens after them that have positions.
  size_t num_scores(const HeadBudget& budget) const {
    return plan_.prompt_tokens - budget.recent_tokens;
  }
  size_t num_appended(const HeadBudget& budget) const {
    return budget.recent_tokens - plan_.tail_tokens;
  }

  CompressionOptions options_;
  KvShape shape_;
  KvPlan plan_;
  cudaStream_t stream_;
  DeviceBuffer positions_workspace_;  // for TopPositions
  DeviceBuffer offsets_workspace_;    // for ShareTokens or MassTokens
};

}  // namespace kvship::cuda
