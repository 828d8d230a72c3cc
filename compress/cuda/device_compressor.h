// DeviceCompressor turns each finished layer of a prompt on a GPU into its compact form, in device
// memory: Compressor for what runs there, which is DeviceScorer's scorers with as many tokens for
// each head of a layer, and keep_all.
//
// One per request; belongs to one thread and one stream. Its operations enqueue and return at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "compress/cuda/device_scorer.h"
#include "kernels/cuda/buffer.h"
#include "kv/compact_layer.h"
#include "kv/compression_options.h"
#include "kv/device_layer.h"
#include "kv/layer_view.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship::cuda {

class DeviceCompressor {
 public:
  // Unimplemented, naming option, value and what is wanted, for what only the CPU does. `plan` is
  // MakePlan's for these options.
  static absl::Status Check(const CompressionOptions& options, const KvShape& shape,
                            const KvPlan& plan, DType dtype);

  // Errors: as Check; ResourceExhausted if the device has no room for the scores.
  static absl::StatusOr<std::unique_ptr<DeviceCompressor>> Create(const CompressionOptions& options,
                                                                  const KvShape& shape,
                                                                  const KvPlan& plan, DType dtype,
                                                                  cudaStream_t stream);

  // What the engine has to deliver with each layer.
  LayerNeeds needs() const;

  // Enqueues the compression of a layer, into memory that the next one reuses.
  absl::Status Compress(const DeviceLayerView& layer);

  // Of the layer compressed last, in device memory.
  const int32_t* positions() const { return positions_.as<int32_t>(); }  // [H, kept_tokens()]
  // [H, PagesFor(kept), PageBytes], of the kept tokens but those of the tails
  const std::byte* pages() const { return pages_.data(); }
  size_t kept_tokens() const { return kept_tokens_; }  // per head
  // What crosses the wire of it; before the first, the most that does of any layer.
  size_t layer_bytes() const { return layout_.num_bytes; }

  // Enqueues copies of the layer's bytes, as they cross the wire, and of its masses [2, H]
  // (retained, then chosen) to the host; from pinned memory they overlap with what follows.
  absl::Status CopyToHost(std::byte* bytes, float* masses) const;

 private:
  DeviceCompressor(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan,
                   DType dtype, cudaStream_t stream)
      : options_(options),
        shape_(shape),
        plan_(plan),
        dtype_(dtype),
        stream_(stream),
        scores_stride_((plan.prompt_tokens + 3) / 4 * 4) {}

  absl::Status Allocate();
  void SetKeptTokens(size_t kept_tokens);
  absl::Status Choose(const DeviceLayerView& layer);
  absl::Status Gather(const DeviceLayerView& layer);

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  const DType dtype_;
  const cudaStream_t stream_;
  const size_t scores_stride_;  // of a row: all begin at 16 bytes, and are read four at a time
  size_t kept_tokens_ = 0;
  LayerLayout layout_;
  std::unique_ptr<DeviceScorer> scorer_;  // none where the whole prompt is kept
  DeviceBuffer scores_;                   // [H, scores_stride_] f32, of T tokens
  DeviceBuffer workspace_;                // of the choice
  DeviceBuffer positions_;                // [H, kept]
  DeviceBuffer pages_;                    // [H, pages per head, PageBytes]
  DeviceBuffer tails_;                    // [H, pages per tail, PageBytes]
  DeviceBuffer masses_;                   // [2, H] f32
};

}  // namespace kvship::cuda
