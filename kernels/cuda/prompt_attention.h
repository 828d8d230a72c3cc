// Causal attention over a prompt on the GPU, PromptAttention() of kernels/attention.h: a plain
// kernel without libraries, for machines that have none and as the reference of faster ones.
// Errors: InvalidArgument if sizes, strides or number formats are not as below, else those of
// Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// Attention of M consecutive queries, the first at position `first_position`, over the keys 0 ..
// first_position + M - 1. A row's result does not depend on how the prompt was cut into blocks.
// Memory: device memory, aligned to 16 bytes. D is 64 or 128.
struct PromptAttentionArgs {
  const void* q = nullptr;       // [M, Hq, D] of dtype, after RoPE
  const void* keys = nullptr;    // [H, T, D]
  const void* values = nullptr;  // [H, T, D]
  void* out = nullptr;           // [M, Hq * D] of dtype
  float* lse = nullptr;          // [Hq, lse_row_stride], natural logarithm; or null
  DType dtype = DType::kBf16;
  size_t num_queries = 0;      // M
  size_t num_query_heads = 0;  // Hq
  size_t num_kv_heads = 0;     // H
  size_t head_dim = 0;         // D
  size_t head_stride = 0;      // elements from one head's keys (values) to the next's
  size_t q_row_stride = 0;     // elements from one query's heads to the next's, at least Hq * D
  size_t lse_row_stride = 0;   // elements, at least M; 0 where there is no lse
  size_t first_position = 0;
};
absl::Status PromptAttention(cudaStream_t stream, const PromptAttentionArgs& args);

}  // namespace kvship::cuda
