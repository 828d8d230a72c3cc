// How far each key's direction is from the mean direction of its head's keys, on the GPU: the
// scores of compress/'s scorer keydiff. Errors: InvalidArgument if sizes, strides or number formats
// are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// scores[h, i] = -cos(k_i, mean over j of k_j / norm2(k_j)), 0 for a key of zeros. Source: KeyDiff,
// arXiv 2504.15364.
//
// Directions are float32 and summed in parts of a fixed number of keys; the parts are summed in
// double, in order. The result does not depend on the device's size and is bit-reproducible. It
// differs by some units of 2^-24 from the CPU's, which sums in double throughout. Memory: device
// memory, keys aligned to 16 bytes; D is 64 or 128.
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
