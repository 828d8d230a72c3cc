#include "base/status_macros.h"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/radix.cuh"
#include "kernels/cuda/share_tokens.h"

namespace kvship::cuda {
namespace {

// One boundary for all rows: of a row's scores, those at or above it beyond its sure ones take
// shared places. It is the lowest at which the places suffice, found digit by digit.

constexpr int kThreads = kRadixThreads;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kScoresPerThread = 8;
// Bins of a histogram that a lane reads before it looks at the first of them: one by one the last
// block would wait for memory 64 times.
constexpr int kBatch = 8;

struct Search {
  uint32_t key;  // the boundary's digits so far
  uint32_t num_blocks_done;
};

struct Params {
  ShareTokensArgs args;
  ScoreRows rows;
  uint32_t* histograms;  // [R, kRadixBins] of the pass
  uint32_t* above;       // [R]: scores above all that begin with the key's digits
  uint32_t* equal;       // [R]: those that equal it, after the last pass
  Search* search;
};

__device__ uint32_t Beyond(uint32_t x, uint32_t sure) { return x > sure ? x - sure : 0; }

// places[d] = the places that scores at or above digit d want beyond the sure ones. A warp takes a
// row.
template <int kPass>
__device__ void CountPlaces(const Params& p, uint32_t* places) {
  const int lane = threadIdx.x % kWarpThreads;
  const auto sure = static_cast<uint32_t>(p.args.num_sure);
  for (size_t row = threadIdx.x / kWarpThreads; row < p.args.num_rows; row += kWarps) {
    const uint32_t* histogram = p.histograms + row * kRadixBins;
    uint32_t above = kPass > 0 ? p.above[row] : 0;
    for (int first = kRadixBins - 1; first >= 0; first -= kBatch * kWarpThreads) {
      uint32_t counts[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) counts[i] = histogram[first - i * kWarpThreads - lane];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) counts[i] = WarpInclusiveSum(counts[i]);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const uint32_t at_least = above + counts[i];
        const uint32_t wanted = Beyond(at_least, sure);
        if (wanted > 0) atomicAdd(&places[first - i * kWarpThreads - lane], wanted);
        above = __shfl_sync(0xffffffffu, at_least, kWarpThreads - 1);
      }
    }
  }
}

// The largest digit for which the shared places suffice. Every thread of the block has the result.
__device__ uint32_t FindDigit(const uint32_t* places, uint32_t num_shared) {
  __shared__ uint32_t found;
  for (uint32_t digit = HighDigit() - 1; digit <= HighDigit(); ++digit) {
    const bool higher_suffices = digit + 1 < kRadixBins && places[digit + 1] >= num_shared;
    if (places[digit] >= num_shared && !higher_suffices) found = digit;
  }
  __syncthreads();
  return found;
}

// Leaves the histograms at zero.
template <int kPass>
__device__ void TakeDigit(const Params& p, uint32_t digit) {
  const int lane = threadIdx.x % kWarpThreads;
  for (size_t row = threadIdx.x / kWarpThreads; row < p.args.num_rows; row += kWarps) {
    uint32_t* histogram = p.histograms + row * kRadixBins;
    uint32_t higher = 0;
    for (int first = 0; first < kRadixBins; first += kBatch * kWarpThreads) {
      uint32_t counts[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) counts[i] = histogram[first + i * kWarpThreads + lane];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const uint32_t bin = first + i * kWarpThreads + lane;
        if (bin > digit) higher += counts[i];
        if (bin == digit) p.equal[row] = counts[i];
        histogram[bin] = 0;
      }
    }
    higher = WarpInclusiveSum(higher);
    if (lane == kWarpThreads - 1) p.above[row] = (kPass > 0 ? p.above[row] : 0) + higher;
  }
  if (threadIdx.x == 0) {
    p.search->key = (kPass > 0 ? p.search->key : 0) | digit << RadixShift(kPass);
  }
}

// What rows want above the boundary they get; of the scores that equal it the first rows'.
__device__ void Share(const Params& p) {
  const auto sure = static_cast<uint32_t>(p.args.num_sure);
  const bool is_row = threadIdx.x < p.args.num_rows;
  const uint32_t above = is_row ? p.above[threadIdx.x] : 0;
  const uint32_t at_least = is_row ? above + p.equal[threadIdx.x] : 0;
  const uint32_t higher = Beyond(above, sure), ties = Beyond(at_least, sure) - higher;
  const uint32_t left = static_cast<uint32_t>(p.args.num_shared) - BlockScan(higher).total;
  const uint32_t taken = min(left, BlockScan(ties).before);
  const uint32_t count = sure + higher + min(ties, left - taken);
  WriteOffsets(count + static_cast<uint32_t>(p.args.num_appended), p.args.num_rows, p.args.offsets);
}

// Adds the digits of the scores that begin with the key's to the row's histogram; the last block
// finds the boundary's next digit.
template <int kPass>
__global__ void __launch_bounds__(kThreads) ShareKernel(const Params p) {
  __shared__ Counts counts;
  ClearCounts(counts);
  WaitForTheKernelBefore();
  uint32_t keys[kScoresPerThread];
  const int num_keys = LoadKeys(p.rows, keys);
  const uint32_t prefix = kPass > 0 ? p.search->key : 0;
  __syncthreads();
  CountDigits(keys, num_keys, kPass, prefix, counts);
  __syncthreads();
  AddCounts(counts, p.histograms + static_cast<size_t>(blockIdx.y) * kRadixBins);
  if (!IsLastBlock(&p.search->num_blocks_done)) return;
  ClearCounts(counts);
  __syncthreads();
  CountPlaces<kPass>(p, counts);
  __syncthreads();
  TakeDigit<kPass>(p, FindDigit(counts, static_cast<uint32_t>(p.args.num_shared)));
  if constexpr (kPass == kRadixPasses - 1) {
    __syncthreads();
    Share(p);
  }
}

absl::Status Check(const ShareTokensArgs& args) {
  if (args.num_rows < 1 || args.num_rows > kMostCountedRows || args.num_scores < 1 ||
      args.num_scores >= (size_t{1} << 31) / args.num_rows ||
      args.scores_row_stride < args.num_scores) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_rows ", args.num_rows, ", num_scores ", args.num_scores,
                     ", scores_row_stride ", args.scores_row_stride, ": wanted 1 to ",
                     kMostCountedRows, " rows of scores, fewer than 2^31 in all"));
  }
  if (args.num_sure > args.num_scores ||
      args.num_shared > args.num_rows * (args.num_scores - args.num_sure)) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_sure ", args.num_sure, ", num_shared ", args.num_shared,
                     ": wanted no more places than there are scores"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t ShareTokensWorkspaceBytes(size_t num_rows) {
  return num_rows * (kRadixBins + 2) * sizeof(uint32_t) + sizeof(Search);
}

absl::Status ShareTokens(cudaStream_t stream, const ShareTokensArgs& args) {
  RETURN_IF_ERROR(Check(args));
  Params p = {};
  p.args = args;
  p.rows = {args.scores, args.scores_row_stride, args.num_scores};
  p.histograms = static_cast<uint32_t*>(args.workspace);
  p.above = p.histograms + args.num_rows * kRadixBins;
  p.equal = p.above + args.num_rows;
  p.search = reinterpret_cast<Search*>(p.equal + args.num_rows);
  constexpr size_t kTileScores = size_t{kThreads} * kScoresPerThread;
  const dim3 grid((args.num_scores + kTileScores - 1) / kTileScores, args.num_rows);
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kThreads), 0, ShareKernel<0>, p));
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kThreads), 0, ShareKernel<1>, p));
  return LaunchEarly(stream, grid, dim3(kThreads), 0, ShareKernel<2>, p);
}

}  // namespace kvship::cuda
