// How a kernel that counts something per row ends in one launch: the block that finishes last makes
// offsets of the counts of all. Device code, of blocks of kRadixThreads threads.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/radix.cuh"

namespace kvship::cuda {

inline constexpr size_t kMostCountedRows = kRadixThreads;

// Whether all other blocks of the grid have done what comes before this call. `num_done` is 0
// before the kernel and after it. Every thread of the block calls it.
__device__ inline bool IsLastBlock(uint32_t* num_done) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(num_done, 1u) + 1 == gridDim.x * gridDim.y;
    if (is_last) *num_done = 0;
  }
  __syncthreads();
  __threadfence();
  return is_last;
}

// offsets[r] = the sum of the rows' counts before row r, for r in [0, num_rows]; thread r brings
// that of row r. Every thread of the block calls it.
__device__ inline void WriteOffsets(uint32_t count, size_t num_rows, int32_t* offsets) {
  const bool is_row = threadIdx.x < num_rows;
  const BlockSums<uint32_t> sums = BlockScan(is_row ? count : 0u);
  if (is_row) offsets[threadIdx.x] = static_cast<int32_t>(sums.before);
  if (threadIdx.x == 0) offsets[num_rows] = static_cast<int32_t>(sums.total);
}

}  // namespace kvship::cuda
