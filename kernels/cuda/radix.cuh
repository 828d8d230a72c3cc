// The digits of a row's scores, counted by blocks of kRadixThreads threads, and sums over such
// blocks: what the operations that look for a boundary among scores have in common. Device code.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {

inline constexpr int kRadixThreads = 1024;
// Scores of one layer share few exponents: copies of the histogram, lane by lane, keep the threads
// of a warp from adding to the same word.
inline constexpr int kHistogramCopies = 4;

template <class T>
__device__ T WarpInclusiveSum(T x) {
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int step = 1; step < kWarpThreads; step *= 2) {
    const T below = __shfl_up_sync(0xffffffffu, x, step);
    if (lane >= step) x += below;
  }
  return x;
}

// Sums of the block's threads before this one, and of all. Every thread of the block calls it.
template <class T>
struct BlockSums {
  T before;
  T total;
};
template <class T>
__device__ BlockSums<T> BlockScan(T x) {
  constexpr int kWarps = kRadixThreads / kWarpThreads;
  __shared__ T warp_sums[kWarps];
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const T inclusive = WarpInclusiveSum(x);
  if (lane == kWarpThreads - 1) warp_sums[warp] = inclusive;
  __syncthreads();
  if (warp == 0) warp_sums[lane] = WarpInclusiveSum(warp_sums[lane]);
  __syncthreads();
  const BlockSums<T> sums = {(warp == 0 ? 0 : warp_sums[warp - 1]) + inclusive - x,
                             warp_sums[kWarps - 1]};
  __syncthreads();  // the next call writes warp_sums
  return sums;
}

// The first of this thread's scores, of blocks that take them in turn.
template <int kPerThread>
__device__ size_t FirstScore() {
  return (static_cast<size_t>(blockIdx.x) * kRadixThreads + threadIdx.x) * kPerThread;
}

__device__ inline uint32_t KeyOf(float score) { return ScoreKey(__float_as_uint(score)); }

// Rows of scores, of which a block's is row blockIdx.y.
struct ScoreRows {
  const float* scores;
  size_t row_stride;
  size_t num_scores;
  bool aligned;  // may be read 16 bytes at a time

  ScoreRows() = default;
  ScoreRows(const float* first, size_t stride, size_t count)
      : scores(first),
        row_stride(stride),
        num_scores(count),
        aligned(stride % 4 == 0 && reinterpret_cast<uintptr_t>(first) % 16 == 0) {}
};

// This thread's scores, consecutive ones, as keys; returns how many there are.
template <int kPerThread>
__device__ int LoadKeys(const ScoreRows& rows, uint32_t (&keys)[kPerThread]) {
  const float* row = rows.scores + blockIdx.y * rows.row_stride;
  const size_t num_scores = rows.num_scores, first = FirstScore<kPerThread>();
  if (first >= num_scores) return 0;
  if (rows.aligned && first + kPerThread <= num_scores) {
#pragma unroll
    for (int i = 0; i < kPerThread; i += 4) {
      const float4 x = *reinterpret_cast<const float4*>(row + first + i);
      keys[i] = KeyOf(x.x);
      keys[i + 1] = KeyOf(x.y);
      keys[i + 2] = KeyOf(x.z);
      keys[i + 3] = KeyOf(x.w);
    }
    return kPerThread;
  }
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (first + i < num_scores) {
      keys[i] = KeyOf(row[first + i]);
      count = i + 1;
    }
  }
  return count;
}

// A block's histogram, in shared memory.
using Counts = uint32_t[kRadixBins * kHistogramCopies];

__device__ inline void ClearCounts(Counts& counts) {
  for (int i = threadIdx.x; i < kRadixBins * kHistogramCopies; i += kRadixThreads) counts[i] = 0;
}
// Counts the digits of those keys that begin with `prefix`.
template <int kPerThread>
__device__ void CountDigits(const uint32_t (&keys)[kPerThread], int num_keys, int pass,
                            uint32_t prefix, Counts& counts) {
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (i < num_keys && RadixPrefix(keys[i], pass) == prefix) {
      const uint32_t digit = RadixDigit(keys[i], pass);
      atomicAdd(&counts[digit * kHistogramCopies + threadIdx.x % kHistogramCopies], 1u);
    }
  }
}
__device__ inline uint32_t SumOfCopies(const Counts& counts, uint32_t bin) {
  uint32_t sum = 0;
#pragma unroll
  for (int copy = 0; copy < kHistogramCopies; ++copy) sum += counts[bin * kHistogramCopies + copy];
  return sum;
}
// Adds the block's counts to a row's histogram in global memory.
__device__ inline void AddCounts(const Counts& counts, uint32_t* histogram) {
  for (int bin = threadIdx.x; bin < kRadixBins; bin += kRadixThreads) {
    const uint32_t sum = SumOfCopies(counts, bin);
    if (sum > 0) atomicAdd(&histogram[bin], sum);  // integers: the order does not matter
  }
}

// Two bins per thread, thread 0 the two highest: the larger digit of this thread's.
__device__ inline uint32_t HighDigit() { return kRadixBins - 1 - 2 * threadIdx.x; }

}  // namespace kvship::cuda
