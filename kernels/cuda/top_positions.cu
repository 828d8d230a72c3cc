#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/radix.cuh"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = kRadixThreads;
constexpr int kScoresPerThread = 8;
constexpr int kTileScores = kThreads * kScoresPerThread;

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
  ScoreRows rows;
  uint32_t* histograms;    // [kRadixPasses, R, kRadixBins]
  Boundary* boundaries;    // [kRadixPasses, R]: after the pass
  TileCount* tile_counts;  // [R, tiles]
};

// By score, beside those that are always kept.
__device__ uint32_t NumChosen(const Params& p) {
  const int32_t* offset = p.args.offsets + blockIdx.y;
  return static_cast<uint32_t>(offset[1] - offset[0]) - static_cast<uint32_t>(p.args.num_appended);
}

// The boundary after `pass` from the one before it and the pass' histogram, of which this thread
// brings its two bins: the largest digit such that the scores above it are fewer than wanted. Every
// thread of the block calls it and has the result.
__device__ Boundary NextBoundary(Boundary before, int pass, uint32_t high, uint32_t low) {
  __shared__ Boundary found;
  const uint32_t high_digit = HighDigit();
  const uint32_t above_high = BlockScan(high + low).before;
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
  Boundary before = {0, NumChosen(p)};
  if (pass > 0) before = p.boundaries[(pass - 1) * rows + row];
  const Boundary result =
      NextBoundary(before, pass, histogram[HighDigit()], histogram[HighDigit() - 1]);
  if (blockIdx.x == 0 && threadIdx.x == 0) p.boundaries[pass * rows + row] = result;
  return result;
}

// Adds the digits of the scores that share the boundary's digits so far to the row's histogram.
template <int kPass>
__global__ void __launch_bounds__(kThreads) HistogramKernel(const Params p) {
  __shared__ Counts counts;
  ClearCounts(counts);
  WaitForTheKernelBefore();
  uint32_t keys[kScoresPerThread];
  const int num_keys = LoadKeys(p.rows, keys);
  uint32_t prefix = 0;
  if constexpr (kPass > 0) prefix = FindBoundary(p, kPass - 1).key;
  __syncthreads();
  CountDigits(keys, num_keys, kPass, prefix, counts);
  __syncthreads();
  AddCounts(counts, p.histograms +
                        (kPass * p.args.num_rows + blockIdx.y) * static_cast<size_t>(kRadixBins));
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
  const int num_keys = LoadKeys(p.rows, keys);
  const Boundary boundary = FindBoundary(p, kRadixPasses - 1);
  const uint32_t packed = CountAgainst(keys, num_keys, boundary.key);
  const uint32_t total = BlockScan(packed).total;
  if (threadIdx.x == 0) {
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
  const uint32_t packed = BlockScan(CountAgainst(keys, num_keys, boundary.key)).before;
  uint32_t above = before.above + (packed >> 16);
  uint32_t equal = before.equal + (packed & 0xffffu);
  int32_t* out = p.args.positions + p.args.offsets[blockIdx.y];
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
  const uint32_t k = NumChosen(p);
  for (size_t i = threadIdx.x; i < p.args.num_appended; i += kThreads) {
    out[k + i] = static_cast<int32_t>(p.args.num_scores + i);
  }
}

__global__ void __launch_bounds__(kThreads) WriteKernel(const Params p) {
  WaitForTheKernelBefore();
  ClearHistograms(p);
  uint32_t keys[kScoresPerThread];
  const int num_keys = LoadKeys(p.rows, keys);
  const Boundary boundary = p.boundaries[(kRadixPasses - 1) * p.args.num_rows + blockIdx.y];
  WriteChosen(p, keys, num_keys, boundary, CountBefore(p));
}

// All of it by one block per row, for rows that fit its registers: five launches fewer.
template <int kPerThread>
__global__ void __launch_bounds__(kThreads) ShortRowsKernel(const Params p) {
  __shared__ Counts counts;
  WaitForTheKernelBefore();
  uint32_t keys[kPerThread];
  const int num_keys = LoadKeys(p.rows, keys);
  Boundary boundary = {0, NumChosen(p)};
#pragma unroll
  for (int pass = 0; pass < kRadixPasses; ++pass) {
    ClearCounts(counts);
    __syncthreads();
    CountDigits(keys, num_keys, pass, boundary.key, counts);
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
  p.rows = {args.scores, args.scores_row_stride, args.num_scores};
  p.histograms = static_cast<uint32_t*>(args.workspace);
  p.boundaries =
      reinterpret_cast<Boundary*>(p.histograms + kRadixPasses * args.num_rows * kRadixBins);
  p.tile_counts = reinterpret_cast<TileCount*>(p.boundaries + kRadixPasses * args.num_rows);
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
