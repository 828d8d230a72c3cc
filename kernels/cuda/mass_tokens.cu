#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mass_tokens.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/radix.cuh"

namespace kvship::cuda {
namespace {

constexpr int kThreads = kRadixThreads;

using Mass = unsigned long long;  // in units of 2^-40; the 64 bits that atomicAdd knows
constexpr float kMassUnits = 0x1p40f;
// What all queries of a KV head have at most: their sum fits into 63 bits.
constexpr float kMostMass = 0x1p22f;

struct Params {
  MassTokensArgs args;
  Mass target;
  uint32_t* counts;  // [H]
  uint32_t* num_blocks_done;
};

// A block's head.
struct Head {
  const float* scores;
  const float* votes;  // [G, votes_row_stride]
  size_t group;
  size_t votes_row_stride;

  // fmaxf first: of NaN it makes 0.
  __device__ Mass MassOf(size_t token) const {
    float sum = 0.0f;
#pragma unroll 4
    for (size_t g = 0; g < group; ++g) sum += votes[g * votes_row_stride + token];
    return static_cast<Mass>(fminf(fmaxf(sum, 0.0f), kMostMass) * kMassUnits);
  }
};

// Where the target is reached: among the tokens with this key, `before` being what those with a
// larger one have.
struct Boundary {
  uint32_t key;
  Mass before;
  bool is_reached;
};

// The boundary with one digit more. Thread 0 has the two highest bins.
__device__ Boundary NextBoundary(Boundary boundary, int pass, const Mass* bins, Mass target) {
  __shared__ Boundary found;
  if (threadIdx.x == 0) found = {boundary.key, boundary.before, false};
  const Mass high = bins[HighDigit()], low = bins[HighDigit() - 1];
  Mass before = boundary.before + BlockScan(high + low).before;
  if (before < target && target <= before + high) {
    found = {boundary.key | HighDigit() << RadixShift(pass), before, true};
  }
  before += high;
  if (before < target && target <= before + low) {
    found = {boundary.key | (HighDigit() - 1) << RadixShift(pass), before, true};
  }
  __syncthreads();
  const Boundary result = found;
  __syncthreads();  // the next call writes it
  return result;
}

// Among scores; `target` is at least 1.
__device__ Boundary FindBoundary(const Head& head, size_t num_scores, Mass target) {
  __shared__ Mass bins[kRadixBins];
  Boundary boundary = {0, 0, true};
#pragma unroll 1
  for (int pass = 0; pass < kRadixPasses && boundary.is_reached; ++pass) {
    for (int bin = threadIdx.x; bin < kRadixBins; bin += kThreads) bins[bin] = 0;
    __syncthreads();
    for (size_t i = threadIdx.x; i < num_scores; i += kThreads) {
      const uint32_t key = KeyOf(head.scores[i]);
      if (RadixPrefix(key, pass) == RadixPrefix(boundary.key, pass)) {
        atomicAdd(&bins[RadixDigit(key, pass)], head.MassOf(i));
      }
    }
    __syncthreads();
    boundary = NextBoundary(boundary, pass, bins, target);
  }
  return boundary;
}

// The tokens above the boundary, and of those at it the first until the target is reached.
__device__ uint32_t CountTaken(const Head& head, size_t num_scores, Boundary boundary,
                               Mass target) {
  uint32_t taken = 0;
  Mass sum = boundary.before;
  for (size_t first = 0; first < num_scores; first += kThreads) {
    const size_t i = first + threadIdx.x;
    const uint32_t key = i < num_scores ? KeyOf(head.scores[i]) : 0;
    const bool is_equal = i < num_scores && key == boundary.key;
    const BlockSums<Mass> sums = BlockScan(is_equal ? head.MassOf(i) : Mass{0});
    const bool is_above = i < num_scores && key > boundary.key;
    if (is_above || (is_equal && sum + sums.before < target)) ++taken;
    sum += sums.total;
  }
  return BlockScan(taken).total;
}

// A block takes one KV head.
__global__ void __launch_bounds__(kThreads) MassTokensKernel(const Params p) {
  WaitForTheKernelBefore();
  const MassTokensArgs& args = p.args;
  const size_t h = blockIdx.x;
  const Head head = {.scores = args.scores + h * args.scores_row_stride,
                     .votes = args.votes + h * args.group * args.votes_row_stride,
                     .group = args.group,
                     .votes_row_stride = args.votes_row_stride};
  Mass kept = 0;
  for (size_t i = args.num_scores + threadIdx.x; i < args.num_tokens; i += kThreads) {
    kept += head.MassOf(i);
  }
  kept = BlockScan(kept).total;
  size_t taken = 0;
  if (kept < p.target) {
    const Mass target = p.target - kept;
    const Boundary boundary = FindBoundary(head, args.num_scores, target);
    taken = args.num_scores;
    if (boundary.is_reached) taken = CountTaken(head, args.num_scores, boundary, target);
  }
  if (threadIdx.x == 0) {
    p.counts[h] = static_cast<uint32_t>(min(max(taken, args.least), args.most));
  }
  if (!IsLastBlock(p.num_blocks_done)) return;
  const uint32_t count = threadIdx.x < args.num_kv_heads ? p.counts[threadIdx.x] : 0;
  WriteOffsets(count + static_cast<uint32_t>(args.num_appended), args.num_kv_heads, args.offsets);
}

absl::Status Check(const MassTokensArgs& args) {
  if (args.num_kv_heads < 1 || args.num_kv_heads > kMostCountedRows || args.group < 1 ||
      args.window < 1 || args.group * args.window > static_cast<size_t>(kMostMass)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_kv_heads ", args.num_kv_heads, ", group ", args.group, ", window ", args.window,
        ": wanted 1 to ", kMostCountedRows, " heads, and 1 to 2^22 queries of each"));
  }
  if (args.least > args.most || args.most > args.num_scores || args.num_scores > args.num_tokens ||
      args.scores_row_stride < args.num_scores || args.votes_row_stride < args.num_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "least ", args.least, ", most ", args.most, ", num_scores ", args.num_scores,
        ", num_tokens ", args.num_tokens, ", scores_row_stride ", args.scores_row_stride,
        ", votes_row_stride ", args.votes_row_stride, ": wanted these in order, and rows for all"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t MassTokensWorkspaceBytes(size_t num_kv_heads) {
  return (num_kv_heads + 1) * sizeof(uint32_t);
}

absl::Status MassTokens(cudaStream_t stream, const MassTokensArgs& args) {
  RETURN_IF_ERROR(Check(args));
  Params p = {};
  p.args = args;
  p.target = static_cast<Mass>(
      std::llrint(args.target_share * static_cast<double>(args.group * args.window) * kMassUnits));
  p.counts = static_cast<uint32_t*>(args.workspace);
  p.num_blocks_done = p.counts + args.num_kv_heads;
  return LaunchEarly(stream, dim3(args.num_kv_heads), dim3(kThreads), 0, MassTokensKernel, p);
}

}  // namespace kvship::cuda
