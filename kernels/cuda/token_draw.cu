#include <cmath>

#include "base/random.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/radix.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/token_draw.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

// One block draws one token: a row of 128K logits is read from the cache once per pass, and there
// are a dozen passes at most, in each of which every thread has 128 of them.
constexpr int kThreads = kRadixThreads;
constexpr int kWarps = kThreads / kWarpThreads;
// Logits that a thread has under way. A pass of one block is as long as the cache's latency times
// the loads that wait for one another.
constexpr int kAhead = 8;

using Sum = unsigned long long;  // the 64 bits that atomicAdd knows
using Bins = Sum[kRadixBins];

// A logit and its token: the larger logit comes first, then the smaller token.
struct Candidate {
  float logit;
  int32_t token;
};
__device__ Candidate Better(Candidate a, Candidate b) {
  // Without branches, which would have the next load wait for this one's result.
  const bool b_first = (b.logit > a.logit) | ((b.logit == a.logit) & (b.token < a.token));
  return {b_first ? b.logit : a.logit, b_first ? b.token : a.token};
}
__device__ Candidate BestOfWarp(Candidate best) {
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    const Candidate other = {__shfl_xor_sync(0xffffffffu, best.logit, step),
                             __shfl_xor_sync(0xffffffffu, best.token, step)};
    best = Better(best, other);
  }
  return best;
}

// take(i, logits[i]) for the tokens i = first, first + kStride, ... below `end`, in that order.
template <int kStride, class Take>
__device__ void ForEachLogit(const float* logits, uint32_t first, uint32_t end, Take take) {
#pragma unroll 1
  for (uint32_t begin = first; begin < end; begin += kAhead * kStride) {
    float ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      ahead[k] = logits[min(begin + k * kStride, end - 1)];  // no load behind a branch
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const uint32_t i = begin + k * kStride;
      if (i < end) take(i, ahead[k]);
    }
  }
}

// One sequence's logits.
struct Row {
  const float* logits;
  uint32_t num_tokens;
  float highest;
  float scale;
  uint32_t farthest;

  __device__ uint32_t Distance(float logit) const {
    return TokenDistance(logit, highest, scale, farthest);
  }
};

// The likeliest token and its logit, for every thread of the block; kNoToken if there is none.
__device__ Candidate Likeliest(const float* logits, uint32_t num_tokens) {
  __shared__ Candidate warps[kWarps];
  Candidate best = {-INFINITY, INT32_MAX};
  ForEachLogit<kThreads>(logits, threadIdx.x, num_tokens, [&](uint32_t i, float logit) {
    best = Better(best, {logit, static_cast<int32_t>(i)});
  });
  best = BestOfWarp(best);
  if (threadIdx.x % kWarpThreads == 0) warps[threadIdx.x / kWarpThreads] = best;
  __syncthreads();
  best = BestOfWarp(warps[threadIdx.x % kWarpThreads]);
  if (!(best.logit > -INFINITY)) best.token = kNoToken;
  return best;
}

__device__ Sum WarpSum(Sum x) {
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Where the tokens that take part end, in the order of their distances.
struct Cutoff {
  uint32_t distance = kNoChance;
  uint32_t num_equal = 0;          // of the tokens at that distance, those that take part
  bool is_between_equals = false;  // there are more of them
};

// The bin among whose shares `needed` is reached, and what the bins before it hold. Every thread of
// the block calls it; `needed` is at least 1 and at most all that the bins hold.
struct Bin {
  uint32_t digit;
  Sum before;
  Sum share;
};
__device__ Bin FindBin(const Bins& bins, BlockSums<Sum> scan, Sum needed) {
  __shared__ Bin found;
  Sum before = scan.before;
  for (uint32_t digit = 2 * threadIdx.x; digit < 2 * threadIdx.x + 2; ++digit) {
    if (before < needed && needed <= before + bins[digit]) found = {digit, before, bins[digit]};
    before += bins[digit];
  }
  __syncthreads();
  const Bin result = found;
  __syncthreads();  // the next call writes it
  return result;
}

// The nearest tokens whose shares add up to `needed`, which is at least 1, or all where theirs do
// not. share(distance) is at least 1.
template <class Share>
__device__ Cutoff FindCutoff(const Row& row, Sum needed, Share share, Bins& bins) {
  static_assert(kRadixBins == 2 * kThreads);
  uint32_t prefix = 0;
  Sum in_bin = 0;
#pragma unroll 1
  for (int pass = 0; pass < kRadixPasses; ++pass) {
    bins[2 * threadIdx.x] = bins[2 * threadIdx.x + 1] = 0;
    __syncthreads();
    ForEachLogit<kThreads>(row.logits, threadIdx.x, row.num_tokens, [&](uint32_t, float logit) {
      const uint32_t distance = row.Distance(logit);
      if (distance != kNoChance && RadixPrefix(distance, pass) == prefix) {
        atomicAdd(&bins[RadixDigit(distance, pass)], share(distance));  // integers: in any order
      }
    });
    __syncthreads();
    const BlockSums<Sum> scan = BlockScan(bins[2 * threadIdx.x] + bins[2 * threadIdx.x + 1]);
    needed = min(needed, scan.total);
    const Bin bin = FindBin(bins, scan, needed);
    prefix |= bin.digit << RadixShift(pass);
    needed -= bin.before;
    in_bin = bin.share;
  }
  const Sum each = share(prefix);
  const Sum num_equal = (needed + each - 1) / each;
  return {prefix, static_cast<uint32_t>(num_equal), num_equal * each < in_bin};
}

__device__ Sum TotalWeight(const Row& row, const Cutoff& cutoff) {
  Sum sum = 0;
  ForEachLogit<kThreads>(row.logits, threadIdx.x, row.num_tokens, [&](uint32_t, float logit) {
    const uint32_t distance = row.Distance(logit);
    sum += distance < cutoff.distance ? Sum{TokenWeight(distance)} : Sum{0};
  });
  return BlockScan(sum).total + cutoff.num_equal * TokenWeight(cutoff.distance);
}

// The token with which the shares of the first tokens, share(token, logit) each, exceed `target`,
// which is less than all of them. Every thread of the block calls it. Each turn is a pass over the
// part that the turn before it has found.
template <class Share>
__device__ uint32_t FindToken(const Row& row, Sum target, Share share) {
  __shared__ Sum sums[kWarps];
  const uint32_t lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  uint32_t begin = 0, end = row.num_tokens;
#pragma unroll 1
  while (end - begin > 1) {
    const uint32_t part = (end - begin + kWarps - 1) / kWarps;
    const uint32_t own_end = min(end, begin + (warp + 1) * part);
    Sum sum = 0;
    ForEachLogit<kWarpThreads>(row.logits, begin + warp * part + lane, own_end,
                               [&](uint32_t i, float logit) { sum += share(i, logit); });
    sum = WarpSum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    uint32_t found = 0;
    while (found < kWarps - 1 && target >= sums[found]) target -= sums[found++];
    __syncthreads();  // the next turn writes them
    begin += found * part;
    end = min(end, begin + part);
  }
  return begin;
}

__device__ uint32_t Draw(const Row& row, const TokenDraw& draw, Bins& bins) {
  Cutoff cutoff;
  if (draw.top_k > 0) {
    cutoff = FindCutoff(
        row, draw.top_k, [](uint32_t) { return Sum{1}; }, bins);
  }
  if (draw.top_p > 0) {
    const Sum needed = NeededWeight(draw.top_p, TotalWeight(row, cutoff));
    cutoff = FindCutoff(
        row, needed, [](uint32_t distance) { return Sum{TokenWeight(distance)}; }, bins);
  }
  uint32_t last_equal = row.num_tokens;
  if (cutoff.is_between_equals) {
    last_equal = FindToken(row, cutoff.num_equal - 1, [&](uint32_t, float logit) {
      return row.Distance(logit) == cutoff.distance ? Sum{1} : Sum{0};
    });
  }
  const Sum target = PartOf(RandomBits(draw.seed, draw.index), TotalWeight(row, cutoff));
  return FindToken(row, target, [&](uint32_t token, float logit) {
    const uint32_t distance = row.Distance(logit);
    const bool takes_part =
        distance < cutoff.distance || (distance == cutoff.distance && token <= last_equal);
    return takes_part ? Sum{TokenWeight(distance)} : Sum{0};
  });
}

__global__ void __launch_bounds__(kThreads) DrawKernel(const DrawTokensArgs args) {
  __shared__ Bins bins;
  WaitForTheKernelBefore();
  const auto num_tokens = static_cast<uint32_t>(args.vocab_tokens);
  const float* logits = args.logits + static_cast<size_t>(blockIdx.x) * num_tokens;
  const TokenDraw draw = args.draws[blockIdx.x];
  const Candidate likeliest = Likeliest(logits, num_tokens);
  int32_t token = likeliest.token;
  if (draw.scale > 0.0f && token != kNoToken && likeliest.logit < INFINITY) {
    const Row row = {logits, num_tokens, likeliest.logit, draw.scale, draw.farthest};
    token = static_cast<int32_t>(Draw(row, draw, bins));
  }
  if (threadIdx.x != 0) return;
  args.tokens[blockIdx.x] = token;
  args.draws[blockIdx.x].index = draw.index + 1;  // every thread has read it
}

}  // namespace

absl::Status DrawTokens(cudaStream_t stream, const DrawTokensArgs& args) {
  if (args.num_sequences < 1 || args.vocab_tokens < 1 || args.vocab_tokens > kMostDrawnFrom) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_sequences ", args.num_sequences, ", vocab_tokens ", args.vocab_tokens,
                     ": wanted at least 1 of each, and at most ", kMostDrawnFrom, " tokens"));
  }
  return LaunchEarly(stream, dim3(args.num_sequences), dim3(kThreads), 0, DrawKernel, args);
}

}  // namespace kvship::cuda
