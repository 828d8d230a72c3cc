// The log-sum-exp of the prompt's last queries over the keys, on the GPU: WindowLogSumExp() of
// kernels/scores.h. With WindowVotes() it gives two-pass scoring, for queries without a log-sum-exp
// from attention, or whose softmax runs over fewer keys than attention's. Errors: InvalidArgument
// if sizes, strides or number formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// lse[h, w] = log(sum over the keys i < num_keys, i <= first_position + w, of exp(q[h,w].k[i] /
// sqrt(D))). Keys are taken in parts of a fixed number, which are merged in a fixed order: the
// result does not depend on the device's size and is bit-reproducible. Memory: device memory, q and
// keys aligned to 16 bytes; W is 1 to WindowVotes' kMostWindowQueries, D 64 or 128.
struct WindowLogSumExpArgs {
  const void* q = nullptr;     // [Hq, W, D] of dtype, after RoPE, queries side by side
  const void* keys = nullptr;  // [H, T, D] of dtype, after RoPE
  float* lse = nullptr;        // [Hq, W] natural logarithm, queries side by side
  void* workspace = nullptr;   // of WindowLogSumExpWorkspaceBytes()
  DType dtype = DType::kBf16;
  size_t num_query_heads = 0;  // Hq
  size_t num_kv_heads = 0;     // H
  size_t window = 0;           // W
  size_t num_keys = 0;
  size_t head_dim = 0;         // D
  size_t q_head_stride = 0;    // elements from one head's queries to the next's, a multiple of 8
  size_t lse_head_stride = 0;  // elements, at least W
  size_t key_head_stride = 0;  // elements from one KV head's keys to the next's
  size_t first_position = 0;   // of the window's first query
};
size_t WindowLogSumExpWorkspaceBytes(size_t num_query_heads, size_t window, size_t num_keys);
absl::Status WindowLogSumExp(cudaStream_t stream, const WindowLogSumExpArgs& args);

}  // namespace kvship::cuda
