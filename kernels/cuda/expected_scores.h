// The attention that keys can expect from future queries, given their moments, on the GPU: the
// scores of compress/'s scorer expected_attention, with ExpectedLogits() of kernels/moments.h.
// Errors: InvalidArgument if sizes, strides or number formats are not as below, else those of
// Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// logits[q, i] = k_i.mean[q] / sqrt(D) + k_i^T covariance[q] k_i / (2 D)
// scores[h, i] = mean over h's Hq/H query heads of softmax_i(logits) * norm2(v_i)
//
// The softmax runs over the tokens from `first_token` on; those before have score 0. Source:
// expected attention, arXiv 2510.00636, section 3. In float32; every number is computed by the same
// sequence of operations whatever the device's size. Memory: device memory, keys and values aligned
// to 16 bytes; D is 64 or 128.
struct ExpectedScoresArgs {
  const void* keys = nullptr;         // [H, T, D] of dtype, after RoPE
  const void* values = nullptr;       // [H, T, D] of dtype
  const float* mean = nullptr;        // [Hq, D]
  const float* covariance = nullptr;  // [Hq, D, D], symmetric
  float* logits = nullptr;            // [Hq, T], written
  float* scores = nullptr;            // [H, scores_row_stride]
  void* workspace = nullptr;          // of ExpectedScoresWorkspaceBytes()
  DType dtype = DType::kBf16;
  size_t num_query_heads = 0;    // Hq
  size_t num_kv_heads = 0;       // H
  size_t num_tokens = 0;         // T
  size_t head_dim = 0;           // D
  size_t head_stride = 0;        // elements from one head's keys (values) to the next's
  size_t scores_row_stride = 0;  // elements, at least T
  size_t first_token = 0;        // below T
};
size_t ExpectedScoresWorkspaceBytes(size_t num_query_heads);
absl::Status ExpectedScores(cudaStream_t stream, const ExpectedScoresArgs& args);

}  // namespace kvship::cuda
