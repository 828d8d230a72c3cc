// Copies the observation window's queries out of those of a block of the prompt, on the GPU.
// Errors: InvalidArgument if sizes, strides or number formats are not as below, else those of
// Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// window_q[h, to_row + i] = q[from_row + i, h] and window_lse[h, to_row + i] = lse[h, from_row + i]
// for the rows i < num_rows. Memory: device memory; D is a multiple of 8.
struct WindowRowsArgs {
  const void* q = nullptr;      // [M, Hq, D] of a 16-bit type, q_row_stride elements apart
  const float* lse = nullptr;   // [Hq, lse_row_stride]
  void* window_q = nullptr;     // [Hq, W, D]
  float* window_lse = nullptr;  // [Hq, W]
  size_t num_query_heads = 0;   // Hq
  size_t head_dim = 0;          // D
  size_t window = 0;            // W
  size_t from_row = 0;
  size_t to_row = 0;
  size_t num_rows = 0;
  size_t q_row_stride = 0;
  size_t lse_row_stride = 0;
};
absl::Status KeepWindowRows(cudaStream_t stream, const WindowRowsArgs& args);

}  // namespace kvship::cuda
