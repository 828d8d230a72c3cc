// Divides a layer's budget among its heads by their scores, on the GPU: AdaKV (arXiv 2407.11550) as
// compress/allocator.h describes it, where every token has a score. Errors: InvalidArgument if
// sizes, strides or number formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// Every row gets its num_sure largest scores; num_shared more places go to the highest of all other
// scores, ties to the smaller row, then to the smaller position, NaN last. offsets[r + 1] -
// offsets[r] = (the places of row r) + num_appended, offsets[0] = 0, as TopPositions() expects.
// Exactly the CPU's result. Memory: device memory; `workspace` of ShareTokensWorkspaceBytes(),
// filled with zeros before the first of the calls that share it, all with one number of rows.
struct ShareTokensArgs {
  const float* scores = nullptr;  // [R, n]
  int32_t* offsets = nullptr;     // [R + 1]
  void* workspace = nullptr;
  size_t num_rows = 0;           // R, at most 1024
  size_t num_scores = 0;         // n, R n below 2^31
  size_t scores_row_stride = 0;  // elements
  size_t num_sure = 0;           // at most n
  size_t num_shared = 0;         // at most R (n - num_sure)
  size_t num_appended = 0;
};
size_t ShareTokensWorkspaceBytes(size_t num_rows);
absl::Status ShareTokens(cudaStream_t stream, const ShareTokensArgs& args);

}  // namespace kvship::cuda
