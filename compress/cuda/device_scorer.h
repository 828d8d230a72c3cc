// DeviceScorer is the GPU's Scorer: it scores the tokens of a layer. It computes the CPU's formulas
// (each is in its scorer's file in compress/) from queries and keys in 16 bits.
//
// One per request; belongs to one thread and one stream. Operations enqueue and return at once,
// with the errors of the kernels.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/token_scores.h"
#include "kernels/cuda/window_votes.h"
#include "kv/compression_options.h"
#include "kv/device_layer.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship::cuda {

// An Unimplemented error for an option value that only the CPU supports.
absl::Status OnlyOnTheCpu(absl::string_view option, absl::string_view value,
                          absl::string_view wanted);

class DeviceScorer {
 public:
  // Unimplemented, naming option, value and what is wanted, for scorers that only the CPU has.
  static absl::Status Check(const CompressionOptions& options);

  // Bytes of device memory that one instance takes.
  static size_t BytesFor(const CompressionOptions& options, const KvShape& shape,
                         const KvPlan& plan) {
    return TotalBytes(Sizes(options, shape, plan));
  }

  // Errors: as Check; ResourceExhausted if the device has no memory for the votes.
  static absl::StatusOr<std::unique_ptr<DeviceScorer>> Create(const CompressionOptions& options,
                                                              const KvShape& shape,
                                                              const KvPlan& plan, DType dtype,
                                                              cudaStream_t stream);

  // Enqueues the scoring of a layer, larger is better: scores [plan's num_heads, NumScored] f32 in
  // device memory, rows `row_stride` elements apart.
  absl::Status Score(const DeviceLayerView& layer, float* scores, size_t row_stride);

  // Enqueues the window queries' attention to each key, summed over the queries, softmax over all
  // keys. Returns [Hq, T] f32 in device memory for the layer scored last, valid until the next
  // Score.
  absl::StatusOr<const float*> WindowAttention(const DeviceLayerView& layer);

 private:
  using ScoreFunction = absl::Status (DeviceScorer::*)(const DeviceLayerView& layer, float* scores,
                                                       size_t row_stride);
  struct NamedScore {
    absl::string_view name;
    ScoreFunction score;
  };
  static const NamedScore kScores[];
  static ScoreFunction ScoreOf(absl::string_view scorer);  // null if only the CPU has it

  DeviceScorer(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan,
               DType dtype, cudaStream_t stream)
      : options_(options),
        shape_(shape),
        plan_(plan),
        dtype_(dtype),
        stream_(stream),
        score_(ScoreOf(options.scorer)) {}

  static BufferSizes<DeviceScorer> Sizes(const CompressionOptions& options, const KvShape& shape,
                                         const KvPlan& plan);

  // Implements Score() for each scorer.
  absl::Status ScoreByWindow(const DeviceLayerView& layer, float* scores, size_t row_stride);
  absl::Status ScoreByLastQuery(const DeviceLayerView& layer, float* scores, size_t row_stride);
  absl::Status ScoreByColumnSums(const DeviceLayerView& layer, float* scores, size_t row_stride);
  absl::Status ScoreByKeyDirections(const DeviceLayerView& layer, float* scores, size_t row_stride);
  absl::Status ScoreByExpectation(const DeviceLayerView& layer, float* scores, size_t row_stride);
  template <TokenScore kScore>
  absl::Status ScoreByTokens(const DeviceLayerView& layer, float* scores, size_t row_stride);

  // Tokens always kept at the start; the same number in every layer.
  static size_t Sinks(const KvPlan& plan) { return plan.budgets.front().sinks; }
  static bool VotesOverPrefix(const CompressionOptions& options) {
    return ScoreOf(options.scorer) == &DeviceScorer::ScoreByWindow &&
           options.softmax == SoftmaxOver::kPrefix;
  }
  // Arguments for votes of the window's queries over all keys, into votes_.
  WindowVotesArgs VotesOf(const DeviceLayerView& layer) const;
  // The window's queries from query `begin` on; head strides do not change.
  const void* QueriesFrom(const void* queries, size_t begin) const;
  // Enqueues the votes of a window of any length.
  absl::Status Vote(WindowVotesArgs votes);
  // Fills votes_ with votes over the keys before the window.
  absl::Status VoteOverPrefix(const DeviceLayerView& layer);

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  const DType dtype_;
  const cudaStream_t stream_;
  const ScoreFunction score_;
  DeviceBuffer votes_;       // [Hq, T] f32
  DeviceBuffer prefix_lse_;  // [Hq, W] f32, where the softmax runs over the prefix
  DeviceBuffer workspace_;   // for operations that need one
};

}  // namespace kvship::cuda
