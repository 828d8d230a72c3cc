// How far each key points away from where the keys of its head point on the average, on the GPU:
// what the scorer keydiff of compress/ gives. Errors: InvalidArgument if sizes, strides or number
// formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// scores[h, i] = -cos(k_i, mean over j of k_j / norm2(k_j)), 0 for a key of zeros. Source: KeyDiff,
// arXiv 2504.15364.
//
// Directions are float32, added up in parts of a fixed number of keys, and those in double in their
// order: the result does not depend on the device's size, and repeats bit for bit. From the CPU's,
// which adds in double throughout, it differs by some units of 2^-24. Memory: device memory, keys
// aligned to 16 bytes; D is 64 or 128.
struct KeyDirectionsArgs {
  const void* keys = nullptr;  // [H, T, D] of dtype
  float* scores = nullptr;     // [H, scores_row_stride]
  void* workspace = nullptr;   // of KeyDirectionsWorkspaceBytes()
  DType dtype = DType::kBf16;
  size_t num_kv_heads = 0;       // H
  size_t num_tokens = 0;         // T
  size_t head_dim = 0;           // D
  size_t key_head_stride = 0;    // elements from one head's keys to the next's
  size_t scores_row_stride = 0;  // elements, at least T
};
size_t KeyDirectionsWorkspaceBytes(size_t num_kv_heads, size_t num_tokens, size_t head_dim);
absl::Status ScoreKeyDirections(cudaStream_t stream, const KeyDirectionsArgs& args);

}  // namespace kvship::cuda
