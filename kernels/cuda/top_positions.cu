#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kScoresPerThread = 8;
constexpr int kTileScores = kThreads * kScoresPerThread;
// Scores of one layer share few exponents: copies of the histogram, lane by lane, keep the threads
// of a warp from adding to the same word.
constexpr int kHistogramCopies = 4;

// What is known of a row's boundary before a pass, and after the last one: the digits found so far,
// and how many of the scores that share them are still to be chosen.
struct Boundary {
  uint32_t key;
  uint32_t num_wanted;
};
struct TileCount {
  uint32_t above;  // scores of the tile above the boundary
  uint32_t equal;
};

struct Params {
  TopPositionsArgs args;
  uint32_t* histograms;    // [kRadixPasses, R, kRadixBins]
  Boundary* boundaries;    // [kRadixPasses, R]: after the pass
  TileCount* tile_counts;  // [R, tiles]
  bool aligned;            // rows may be read 16 bytes at a time
};

__device__ uint32_t WarpInclusiveSum(uint32_t x) {
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int step = 1; step < kWarpThreads; step *= 2) {
    const uint32_t below = __shfl_up_sync(0xffffffffu, x, step);
    if (lane >= step) x += below;
  }
  return x;
}

// Sum over the block's threads before this one. Every thread of the block calls it.
__device__ uint32_t BlockExclusiveSum(uint32_t x) {
  __shared__ uint32_t warp_sums[kThreads / kWarpThreads];
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const uint32_t inclusive = WarpInclusiveSum(x);
  if (lane == kWarpThreads - 1) warp_sums[warp] = inclusive;
  __syncthreads();
  if (warp == 0) warp_sums[lane] = WarpInclusiveSum(warp_sums[lane]);
  __syncthreads();
  const uint32_t before = warp == 0 ? 0 : warp_sums[warp - 1];
  __syncthreads();  // the next call writes warp_sums
  return before + inclusive - x;
}

// The first of this thread's scores.
template <int kPerThread>
__device__ size_t FirstScore() {
  return (static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x) * kPerThread;
}

// This thread's scores, consecutive ones, as keys; returns how many there are.
template <int kPerThread>
__device__ int LoadKeys(const Params& p, uint32_t (&keys)[kPerThread]) {
  const float* row = p.args.scores + blockIdx.y * p.args.scores_row_stride;
  const size_t first = FirstScore<kPerThread>();
  if (first >= p.args.num_scores) return 0;
  if (p.aligned && first + kPerThread <= p.args.num_scores) {
#pragma unroll
    for (int i = 0; i < kPerThread; i += 4) {
      const float4 x = *reinterpret_cast<const float4*>(row + first + i);
      keys[i] = ScoreKey(__float_as_uint(x.x));
      keys[i + 1] = ScoreKey(__float_as_uint(x.y));
      keys[i + 2] = ScoreKey(__float_as_uint(x.z));
      keys[i + 3] = ScoreKey(__float_as_uint(x.w));
    }
    return kPerThread;
  }
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (first + i < p.args.num_scores) {
      keys[i] = ScoreKey(__float_as_uint(row[first + i]));
      count = i + 1;
    }
  }
  return count;
}

__device__ size_t NumChosen(const Params& p) {
  return p.args.k_per_row != nullptr ? p.args.k_per_row[blockIdx.y] : p.args.k;
}

// The boundary after `pass` from the one before it and the pass' histogram, of which this thread
// brings two bins, thread 0 the two highest: the largest digit such that the scores above it are
// fewer than wanted. Every thread of the block calls it and has the result.
__device__ uint32_t HighDigit() { return kRadixBins - 1 - 2 * threadIdx.x; }
__device__ Boundary NextBoundary(Boundary before, int pass, uint32_t high, uint32_t low) {
  __shared__ Boundary found;
  const uint32_t high_digit = HighDigit();
  const uint32_t above_high = BlockExclusiveSum(high + low);
  const uint32_t above_low = above_high + high;
  if (above_high < before.num_wanted && before.num_wanted <= above_high + high) {
    found = {before.key | high_digit << RadixShift(pass), before.num_wanted - above_high};
  } else if (above_low < before.num_wanted && before.num_wanted <= above_low + low) {
    found = {before.key | (high_digit - 1) << RadixShift(pass), before.num_wanted - above_low};
  } else if (before.num_wanted == 0 && threadIdx.x == 0) {
    found = {~0u, 0};  // no score is above this key, and none that equals it is wanted
  }
  __syncthreads();
  const Boundary result = found;
  __syncthreads();  // the next call writes it
  return result;
}

// The same from the row's histogram in global memory.
__device__ Boundary FindBoundary(const Params& p, int pass) {
  const size_t rows = p.args.num_rows, row = blockIdx.y;
  const uint32_t* histogram = p.histograms + (pass * rows + row) * kRadixBins;
  Boundary before = {0, static_cast<uint32_t>(NumChosen(p))};
  if (pass > 0) before = p.boundaries[(pass - 1) * rows + row];
  const Boundary result =
      NextBoundary(before, pass, histogram[HighDigit()], histogram[HighDigit() - 1]);
  if (blockIdx.x == 0 && threadIdx.x == 0) p.boundaries[pass * rows + row] = result;
  return result;
}

using Counts = uint32_t[kRadixBins * kHistogramCopies];

__device__ void ClearCounts(Counts& counts) {
  for (int i = threadIdx.x; i < kRadixBins * kHistogramCopies; i += kThreads) counts[i] = 0;
}
template <int kPerThread>
__device__ void Count(const uint32_t (&keys)[kPerThread], int num_keys, int pass, uint32_t prefix,
                      Counts& counts) {
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (i < num_keys && RadixPrefix(keys[i], pass) == prefix) {
      const uint32_t digit = RadixDigit(keys[i], pass);
      atomicAdd(&counts[digit * kHistogramCopies + threadIdx.x % kHistogramCopies], 1u);
    }
  }
}
__device__ uint32_t SumOfCopies(const Counts& counts, uint32_t bin) {
  uint32_t sum = 0;
#pragma unroll
  for (int copy = 0; copy < kHistogramCopies; ++copy) sum += counts[bin * kHistogramCopies + copy];
  return sum;
}

// Adds the digits of the scores that share the boundary's digits so far to the row's histogram.
template <int kPass>
__global__ void __launch_bounds__(kThreads) HistogramKernel(const Params p) {
  __shared__ Counts counts;
  ClearCounts(counts);
  WaitForTheKernelBefore();
  uint32_t keys[kScoresPerThread];
  const int num_keys = LoadKeys(p, keys);
  uint32_t prefix = 0;
  if constexpr (kPass > 0) prefix = FindBoundary(p, kPass - 1).key;
  __syncthreads();
  Count(keys, num_keys, kPass, prefix, counts);
  __syncthreads();
  uint32_t* histogram =
      p.histograms + (kPass * p.args.num_rows + blockIdx.y) * static_cast<size_t>(kRadixBins);
  for (int bin = threadIdx.x; bin < kRadixBins; bin += kThreads) {
    const uint32_t sum = SumOfCopies(counts, bin);
    if (sum > 0) atomicAdd(&histogram[bin], sum);  // integers: the order does not matter
  }
}

// Above and equal in half a word each: a block has fewer than 2^16 scores.
template <int kPerThread>
__device__ uint32_t CountAgainst(const uint32_t (&keys)[kPerThread], int num_keys,
                                 uint32_t boundary) {
  uint32_t packed = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (i < num_keys) packed += keys[i] > boundary ? 1u << 16 : keys[i] == boundary ? 1u : 0u;
  }
  return packed;
}

__global__ void __launch_bounds__(kThreads) CountKernel(const Params p) {
  WaitForTheKernelBefore();
  uint32_t keys[kScoresPerThread];
  const int num_keys = LoadKeys(p, keys);
  const Boundary boundary = FindBoundary(p, kRadixPasses - 1);
  const uint32_t packed = CountAgainst(keys, num_keys, boundary.key);
  const uint32_t before = BlockExclusiveSum(packed);
  if (threadIdx.x == kThreads - 1) {
    const uint32_t total = before + packed;
    p.tile_counts[static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x] = {total >> 16,
                                                                               total & 0xffffu};
  }
}

// Sums of the row's tiles before this one.
__device__ TileCount CountBefore(const Params& p) {
  __shared__ TileCount before;
  if (threadIdx.x == 0) before = {0, 0};
  __syncthreads();
  const TileCount* row = p.tile_counts + static_cast<size_t>(blockIdx.y) * gridDim.x;
  for (unsigned tile = threadIdx.x; tile < blockIdx.x; tile += kThreads) {
    atomicAdd(&before.above, row[tile].above);
    atomicAdd(&before.equal, row[tile].equal);
  }
  __syncthreads();
  return before;
}

// For the next call: nobody reads the row's histograms any more.
__device__ void ClearHistograms(const Params& p) {
  constexpr size_t kWords = size_t{kRadixPasses} * kRadixBins;
  for (size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x; i < kWords;
       i += static_cast<size_t>(gridDim.x) * kThreads) {
    const size_t pass = i / kRadixBins;
    p.histograms[(pass * p.args.num_rows + blockIdx.y) * kRadixBins + i % kRadixBins] = 0;
  }
}

// Writes the block's chosen positions behind the `before` of those of the row's blocks before it,
// and in the first block those that are always kept.
template <int kPerThread>
__device__ void WriteChosen(const Params& p, const uint32_t (&keys)[kPerThread], int num_keys,
                            Boundary boundary, TileCount before) {
  const uint32_t packed = BlockExclusiveSum(CountAgainst(keys, num_keys, boundary.key));
  uint32_t above = before.above + (packed >> 16);
  uint32_t equal = before.equal + (packed & 0xffffu);
  int32_t* out = p.args.positions + blockIdx.y * p.args.positions_row_stride;
  const size_t first = FirstScore<kPerThread>();
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (i >= num_keys) continue;
    const uint32_t place = above + min(equal, boundary.num_wanted);
    if (keys[i] > boundary.key) {
      out[place] = static_cast<int32_t>(first + i);
      ++above;
    } else if (keys[i] == boundary.key) {
      if (equal < boundary.num_wanted) out[place] = static_cast<int32_t>(first + i);
      ++equal;
    }
  }
  if (blockIdx.x != 0) return;
  const size_t k = NumChosen(p);
  for (size_t i = threadIdx.x; i < p.args.num_appended; i += kThreads) {
    out[k + i] = static_cast<int32_t>(p.args.num_scores + i);
  }
}

__global__ void __launch_bounds__(kThreads) WriteKernel(const Params p) {
  WaitForTheKernelBefore();
  ClearHistograms(p);
  uint32_t keys[kScoresPerThread];
  const int num_keys = LoadKeys(p, keys);
  const Boundary boundary = p.boundaries[(kRadixPasses - 1) * p.args.num_rows + blockIdx.y];
  WriteChosen(p, keys, num_keys, boundary, CountBefore(p));
}

// All of it by one block per row, for rows that fit its registers: five launches fewer.
template <int kPerThread>
__global__ void __launch_bounds__(kThreads) ShortRowsKernel(const Params p) {
  __shared__ Counts counts;
  WaitForTheKernelBefore();
  uint32_t keys[kPerThread];
  const int num_keys = LoadKeys(p, keys);
  Boundary boundary = {0, static_cast<uint32_t>(NumChosen(p))};
#pragma unroll
  for (int pass = 0; pass < kRadixPasses; ++pass) {
    ClearCounts(counts);
    __syncthreads();
    Count(keys, num_keys, pass, boundary.key, counts);
    __syncthreads();
    boundary = NextBoundary(boundary, pass, SumOfCopies(counts, HighDigit()),
                            SumOfCopies(counts, HighDigit() - 1));
  }
  WriteChosen(p, keys, num_keys, boundary, {0, 0});
}

size_t NumTiles(size_t num_scores) { return (num_scores + kTileScores - 1) / kTileScores; }

size_t HistogramBytes(size_t num_rows) {
  return size_t{kRadixPasses} * num_rows * kRadixBins * sizeof(uint32_t);
}

absl::Status Check(const TopPositionsArgs& args) {
  if (args.num_rows < 1 || args.num_rows > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_rows ", args.num_rows, ": wanted 1 to 65535"));
  }
  if (args.num_scores < 1 || args.num_scores > (size_t{1} << 30)) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_scores ", args.num_scores, ": wanted 1 to 2^30"));
  }
  if (args.scores_row_stride < args.num_scores) {
    return absl::InvalidArgumentError(absl::StrCat("scores_row_stride ", args.scores_row_stride,
                                                   ": wanted at least ", args.num_scores));
  }
  if (args.k > args.num_scores) {
    return absl::InvalidArgumentError(
        absl::StrCat("k ", args.k, ": wanted at most num_scores ", args.num_scores));
  }
  if (args.positions_row_stride < args.k + args.num_appended) {
    return absl::InvalidArgumentError(absl::StrCat("positions_row_stride ",
                                                   args.positions_row_stride, ": wanted at least ",
                                                   args.k + args.num_appended));
  }
  return absl::OkStatus();
}

}  // namespace

size_t TopPositionsWorkspaceBytes(size_t num_rows, size_t num_scores) {
  return HistogramBytes(num_rows) + kRadixPasses * num_rows * sizeof(Boundary) +
         num_rows * NumTiles(num_scores) * sizeof(TileCount);
}

absl::Status TopPositions(cudaStream_t stream, const TopPositionsArgs& args) {
  RETURN_IF_ERROR(Check(args));
  Params p = {};
  p.args = args;
  p.histograms = static_cast<uint32_t*>(args.workspace);
  p.boundaries =
      reinterpret_cast<Boundary*>(p.histograms + kRadixPasses * args.num_rows * kRadixBins);
  p.tile_counts = reinterpret_cast<TileCount*>(p.boundaries + kRadixPasses * args.num_rows);
  p.aligned = args.scores_row_stride % 4 == 0 && reinterpret_cast<uintptr_t>(args.scores) % 16 == 0;
  const dim3 short_grid(1, args.num_rows);
  if (args.num_scores <= size_t{kThreads} * 8) {
    return LaunchEarly(stream, short_grid, dim3(kThreads), 0, ShortRowsKernel<8>, p);
  }
  if (args.num_scores <= size_t{kThreads} * 16) {
    return LaunchEarly(stream, short_grid, dim3(kThreads), 0, ShortRowsKernel<16>, p);
  }
  if (args.num_scores <= size_t{kThreads} * 32) {
    return LaunchEarly(stream, short_grid, dim3(kThreads), 0, ShortRowsKernel<32>, p);
  }
  const dim3 grid(NumTiles(args.num_scores), args.num_rows);
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kThreads), 0, HistogramKernel<0>, p));
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kThreads), 0, HistogramKernel<1>, p));
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kThreads), 0, HistogramKernel<2>, p));
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kThreads), 0, CountKernel, p));
  return LaunchEarly(stream, grid, dim3(kThreads), 0, WriteKernel, p);
}

}  // namespace kvship::cuda
