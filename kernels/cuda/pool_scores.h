// Turns votes into scores on the GPU: PoolScores() and ReduceGroups() of kernels/scores.h in one
// pass. Errors: InvalidArgument if sizes, strides or number formats are not as below, else those of
// Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/scores.h"

namespace kvship::cuda {

// scores[h, i] = reduce over g of pool over i of votes[h * G + g, i] * vote_scale, or pooled after
// the reduction. Average and mean or sum commute, and so do two maxima: they are then computed in
// the cheaper order, reduction first. kernel is odd, below 2^30. With GroupReduce::kNone H = Hq.
// Each row of scores is written `copies` times, one below the other: with H = 1 they serve all
// heads of a layer. Memory: device memory; votes and scores are not the same.
struct PoolScoresArgs {
  const float* votes = nullptr;  // [Hq, T]
  float* scores = nullptr;       // [H * copies, T]
  size_t num_query_heads = 0;    // Hq
  size_t num_kv_heads = 0;       // H
  size_t num_tokens = 0;         // T
  size_t votes_row_stride = 0;   // elements
  size_t scores_row_stride = 0;
  Pooling pooling = Pooling::kNone;
  size_t kernel = 1;
  GroupReduce reduce = GroupReduce::kMean;
  bool reduce_before_pooling = false;
  float vote_scale = 1.0f;  // 1 / W makes a mean of the window's sum
  size_t copies = 1;
};
absl::Status PoolScores(cudaStream_t stream, const PoolScoresArgs& args);

}  // namespace kvship::cuda
