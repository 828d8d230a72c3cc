// Sums and maxima over the threads of a block. Device code.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {

// Sum over the block, for every thread; the order of the additions is fixed. Whole warps of at most
// 1024 threads call it together. A barrier belongs between two calls.
__device__ inline float BlockSum(float x) {
  constexpr int kMaxWarps = 1024 / kWarpThreads;
  __shared__ float warp_sums[kMaxWarps];
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % kWarpThreads == 0) warp_sums[threadIdx.x / kWarpThreads] = x;
  __syncthreads();
  float sum = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x / kWarpThreads; ++warp) sum += warp_sums[warp];
  return sum;
}

// NaN is the smallest number.
__device__ inline float Larger(float a, float b) { return fmaxf(a, b); }
__device__ inline uint32_t Larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

// The largest of the block, as above.
template <class T>
__device__ T BlockMax(T x) {
  constexpr int kMaxWarps = 1024 / kWarpThreads;
  __shared__ T warp_maxima[kMaxWarps];
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    x = Larger(x, __shfl_xor_sync(0xffffffffu, x, step));
  }
  if (threadIdx.x % kWarpThreads == 0) warp_maxima[threadIdx.x / kWarpThreads] = x;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / kWarpThreads; ++warp) {
    x = Larger(x, warp_maxima[warp]);
  }
  return x;
}

}  // namespace kvship::cuda
