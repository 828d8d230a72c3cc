// DeviceCompressor turns each finished layer of a prompt on a GPU into its compact form, in device
// memory: Compressor for what runs there, which is all but scorers that DeviceScorer does not have.
//
// One per request; belongs to one thread and one stream. Its operations enqueue and return at once.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "compress/cuda/compact_device_layer.h"
#include "compress/cuda/device_chunks.h"
#include "compress/cuda/device_scorer.h"
#include "compress/cuda/device_tokens.h"
#include "kernels/cuda/buffer.h"
#include "kv/compression_options.h"
#include "kv/device_layer.h"
#include "kv/layer_view.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship::cuda {

class DeviceCompressor {
 public:
  // A layer's window votes in one step of the engine: so many queries take seconds at a million
  // tokens.
  static constexpr size_t kLongestWindow = 65536;

  // Unimplemented, naming option, value and what is wanted, for what only the CPU does. `plan` is
  // MakePlan's for these options.
  static absl::Status Check(const CompressionOptions& options, const KvPlan& plan);

  // What the engine has to deliver with each layer, for options that Check passes.
  static LayerNeeds NeedsOf(const CompressionOptions& options, const KvPlan& plan);
  // Bytes of device memory that one takes.
  static size_t BytesFor(const CompressionOptions& options, const KvShape& shape,
                         const KvPlan& plan);

  // Errors: as Check; ResourceExhausted if the device has no room for the scores.
  static absl::StatusOr<std::unique_ptr<DeviceCompressor>> Create(const CompressionOptions& options,
                                                                  const KvShape& shape,
                                                                  const KvPlan& plan, DType dtype,
                                                                  cudaStream_t stream);

  LayerNeeds needs() const { return NeedsOf(options_, plan_); }

  // Enqueues the compression of a layer, into memory that the next one reuses.
  absl::Status Compress(const DeviceLayerView& layer);

  // The layer compressed last.
  const CompactDeviceLayer& compact() const { return *compact_; }

 private:
  DeviceCompressor(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan,
                   DType dtype, cudaStream_t stream)
      : options_(options),
        shape_(shape),
        plan_(plan),
        dtype_(dtype),
        stream_(stream),
        scores_stride_(ScoresStride(plan)) {}

  // All rows begin at 16 bytes, and are read four numbers at a time.
  static size_t ScoresStride(const KvPlan& plan) { return (plan.prompt_tokens + 3) / 4 * 4; }

  absl::Status TakeMemory();
  // Tokens without a score come after all others; no layer changes that.
  absl::Status FillUnscored();
  absl::Status Choose(const DeviceLayerView& layer);
  absl::Status Gather(const DeviceLayerView& layer);

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  const DType dtype_;
  const cudaStream_t stream_;
  const size_t scores_stride_;
  std::optional<CompactDeviceLayer> compact_;
  std::unique_ptr<DeviceScorer> scorer_;  // none where the whole prompt is kept
  DeviceBuffer scores_;                   // [plan's num_heads, scores_stride_] f32, of T tokens
  std::optional<DeviceTokens> tokens_;    // the selector: one or the other, or none
  std::optional<DeviceChunks> chunks_;
};

}  // namespace kvship::cuda
