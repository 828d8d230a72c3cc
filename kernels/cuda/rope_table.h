// Cosines and sines by which RopeAndStore() rotates queries and keys, on the GPU. Errors:
// InvalidArgument if sizes, strides or number formats are not as below, else those of Launch() in
// launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// out[m, 2i] and out[m, 2i + 1] = cosine and sine of position[m] * frequencies[i], times the
// attention factor. The angle is computed in double: at position 10^6 a float is off by 0.03.
// Memory: device memory.
struct RopeTableArgs {
  const double* frequencies = nullptr;  // [D / 2]
  double attention_factor = 1;
  const int32_t* positions = nullptr;  // [M]; or null: first_position + m
  float* out = nullptr;                // [M, D]
  size_t num_tokens = 0;               // M
  size_t head_dim = 0;                 // D
  size_t first_position = 0;
};
absl::Status FillRopeTable(cudaStream_t stream, const RopeTableArgs& args);

}  // namespace kvship::cuda
