// DeviceScorer votes for the tokens of a layer on a GPU: Scorer for what runs there, which is
// snapkv, knorm, streaming_llm and random. Scores are the CPU's, of queries and keys in 16 bits.
//
// One per request; belongs to one thread and one stream. Its operations enqueue and return at once.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/buffer.h"
#include "kv/compression_options.h"
#include "kv/device_layer.h"
#include "kv/layer_view.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship::cuda {

// Unimplemented: an option whose value only the CPU knows.
absl::Status OnlyOnTheCpu(absl::string_view option, absl::string_view value,
                          absl::string_view wanted);

class DeviceScorer {
 public:
  // Unimplemented, naming option, value and what is wanted, for what only the CPU scores. `plan` is
  // MakePlan's for these options, and does not keep the whole prompt.
  static absl::Status Check(const CompressionOptions& options, const KvPlan& plan);

  // Errors: as Check; ResourceExhausted if the device has no room for the votes.
  static absl::StatusOr<std::unique_ptr<DeviceScorer>> Create(const CompressionOptions& options,
                                                              const KvShape& shape,
                                                              const KvPlan& plan, DType dtype,
                                                              cudaStream_t stream);

  // What the engine has to deliver with each layer.
  LayerNeeds needs() const;

  // Enqueues the scores of a layer, larger is better: scores [H, T] f32 in device memory, rows
  // `row_stride` elements apart. snapkv gives none to the window's own tokens.
  absl::Status Score(const DeviceLayerView& layer, float* scores, size_t row_stride);

  // Enqueues the sums over the window of its queries' attention to each key, softmax over all keys:
  // [Hq, T] f32 in device memory, of the layer that was scored last and until the next one is.
  absl::StatusOr<const float*> WindowAttention(const DeviceLayerView& layer);

 private:
  DeviceScorer(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan,
               DType dtype, cudaStream_t stream)
      : options_(options), shape_(shape), plan_(plan), dtype_(dtype), stream_(stream) {}

  absl::Status Allocate();
  // Fill votes_: of the softmax that `lse` belongs to, and of one over the keys before the window.
  absl::Status Vote(const DeviceLayerView& layer, const float* lse, size_t num_keys);
  absl::Status VoteOverPrefix(const DeviceLayerView& layer);
  absl::Status PoolVotes(float* scores, size_t row_stride);
  bool VotesByAttention() const {
    return options_.scorer == "snapkv" && options_.softmax == SoftmaxOver::kAll;
  }

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  const DType dtype_;
  const cudaStream_t stream_;
  DeviceBuffer votes_;       // [Hq, T] f32
  DeviceBuffer prefix_lse_;  // [Hq, W] f32, where the softmax runs over the prefix
  DeviceBuffer sums_;        // workspace of prefix_lse_
};

}  // namespace kvship::cuda
