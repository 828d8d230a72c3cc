// DeviceCompressor is the GPU's Compressor, for every scorer that DeviceScorer has: it turns each
// finished layer of a prompt into its compact form in device memory.
//
// One per request; belongs to one thread and one stream. Operations enqueue and return at once.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "compress/cuda/compact_device_layer.h"
#include "compress/cuda/device_chunks.h"
#include "compress/cuda/device_scorer.h"
#include "compress/cuda/device_tokens.h"
#include "compress/scorer.h"
#include "kernels/cuda/buffer.h"
#include "kv/compression_options.h"
#include "kv/device_layer.h"
#include "kv/layer_needs.h"
#include "kv/layer_view.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship::cuda {

class DeviceCompressor {
 public:
  // The longest window. All its queries vote in one engine step; this many take seconds at a
  // million tokens.
  static constexpr size_t kLongestWindow = 65536;

  // Unimplemented, naming the option, its value and what is wanted, for options that only the CPU
  // supports. `plan` is MakePlan's for these options.
  static absl::Status Check(const CompressionOptions& options, const KvPlan& plan);

  // Bytes of device memory that one instance takes.
  static size_t BytesFor(const CompressionOptions& options, const KvShape& shape,
                         const KvPlan& plan);

  // Errors: as Check; ResourceExhausted if the device has no memory for the scores.
  static absl::StatusOr<std::unique_ptr<DeviceCompressor>> Create(const CompressionOptions& options,
                                                                  const KvShape& shape,
                                                                  const KvPlan& plan, DType dtype,
                                                                  cudaStream_t stream);

  // What the engine has to deliver with each layer.
  LayerNeeds needs() const { return NeedsOf(options_, plan_); }

  // Enqueues the compression of a layer, into memory that the next layer reuses.
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

  // Rows are 16-byte aligned, because kernels read four floats at a time.
  static size_t ScoresStride(const KvPlan& plan) { return (plan.prompt_tokens + 3) / 4 * 4; }

  absl::Status TakeMemory();
  // Gives tokens without a score the lowest one, once: no layer changes it.
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
  std::unique_ptr<DeviceScorer> scorer_;  // null if the whole prompt is kept
  DeviceBuffer scores_;                   // [plan's num_heads, scores_stride_] f32, of T tokens
  std::optional<DeviceTokens> tokens_;    // the selector: at most one is set
  std::optional<DeviceChunks> chunks_;
};

}  // namespace kvship::cuda
