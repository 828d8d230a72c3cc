#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/pool_scores.h"
#include "kernels/cuda/ptx.cuh"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kOutputsPerThread = 4;
constexpr int kTileTokens = kThreads * kOutputsPerThread;
// Inputs that an output takes from one tile in shared memory: wider kernels take several tiles.
constexpr int kMostSteps = 127;

// Threads read shared memory eight words apart; a word of padding after each eight puts them into
// different banks.
constexpr int Padded(int i) { return i + (i >> 3); }
constexpr int kSharedWords = Padded(kTileTokens + kMostSteps - 1) + 1;

struct Params {
  PoolScoresArgs args;
  int group;  // votes' rows per row of scores
  bool reduce_first;
};

__device__ float Combine(GroupReduce reduce, float sum, float x) {
  return reduce == GroupReduce::kMax ? fmaxf(sum, x) : sum + x;
}
__device__ float Finish(GroupReduce reduce, float sum, int group) {
  return reduce == GroupReduce::kMean ? sum / group : sum;
}

// What the tile's outputs take of row `row` (or of the reduction of its group's rows) in `steps`
// steps, from the token `first` on, with the padding that the pooling wants beyond the ends.
__device__ void LoadRow(const Params& p, size_t row, int num_rows, int first, int steps,
                        float* shared) {
  const PoolScoresArgs& args = p.args;
  const float outside = args.pooling == Pooling::kMax ? -INFINITY : 0.0f;
  for (int i = threadIdx.x; i < kTileTokens + steps - 1; i += kThreads) {
    const int token = first + i;
    float x = outside;
    if (token >= 0 && token < static_cast<int>(args.num_tokens)) {
      const float* votes = args.votes + row * args.votes_row_stride + token;
      x = votes[0] * args.vote_scale;
      for (int g = 1; g < num_rows; ++g) {
        x = Combine(args.reduce, x, votes[g * args.votes_row_stride] * args.vote_scale);
      }
      if (num_rows > 1) x = Finish(args.reduce, x, num_rows);
    }
    shared[Padded(i)] = x;
  }
}

// Takes the next `steps` inputs of this thread's outputs from the row in shared memory. Each output
// combines its own inputs from left to right, so that equal neighbourhoods have equal scores.
__device__ void AddSteps(const float* shared, bool maximum, int steps,
                         float (&out)[kOutputsPerThread]) {
  const int first = threadIdx.x * kOutputsPerThread;
  float window[kOutputsPerThread];
#pragma unroll
  for (int i = 0; i < kOutputsPerThread; ++i) window[i] = shared[Padded(first + i)];
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < kOutputsPerThread; ++i) {
      out[i] = maximum ? fmaxf(out[i], window[i]) : out[i] + window[i];
    }
    // The next inputs: everyone's right neighbour, and one new word.
#pragma unroll
    for (int i = 0; i + 1 < kOutputsPerThread; ++i) window[i] = window[i + 1];
    if (step + 1 < steps) {
      window[kOutputsPerThread - 1] = shared[Padded(first + kOutputsPerThread + step)];
    }
  }
}

// This thread's outputs of a row, or of the reduction of its group's rows. Every thread of the
// block calls it.
__device__ void PoolRow(const Params& p, size_t row, int num_rows, float* shared,
                        float (&out)[kOutputsPerThread]) {
  const int kernel = p.args.pooling == Pooling::kNone ? 1 : static_cast<int>(p.args.kernel);
  const bool maximum = p.args.pooling == Pooling::kMax;
#pragma unroll
  for (int i = 0; i < kOutputsPerThread; ++i) out[i] = maximum ? -INFINITY : 0.0f;
  // Of the kernel's steps those in which some output of the tile takes a token.
  const int first = static_cast<int>(blockIdx.x) * kTileTokens - kernel / 2;
  const int end = min(kernel, static_cast<int>(p.args.num_tokens) - first);
  for (int step = max(0, 1 - kTileTokens - first); step < end; step += kMostSteps) {
    const int steps = min(end - step, kMostSteps);
    LoadRow(p, row, num_rows, first + step, steps, shared);
    __syncthreads();
    AddSteps(shared, maximum, steps, out);
    __syncthreads();
  }
  if (p.args.pooling == Pooling::kAverage) {
#pragma unroll
    for (int i = 0; i < kOutputsPerThread; ++i) out[i] /= kernel;
  }
}

__global__ void __launch_bounds__(kThreads) PoolKernel(const Params p) {
  __shared__ float shared[kSharedWords];
  WaitForTheKernelBefore();
  const PoolScoresArgs& args = p.args;
  const size_t first_row = static_cast<size_t>(blockIdx.y) * p.group;
  float total[kOutputsPerThread];
  const int passes = p.reduce_first ? 1 : p.group;
  for (int pass = 0; pass < passes; ++pass) {
    float pooled[kOutputsPerThread];
    PoolRow(p, first_row + pass, p.reduce_first ? p.group : 1, shared, pooled);
#pragma unroll
    for (int i = 0; i < kOutputsPerThread; ++i) {
      total[i] = pass == 0 ? pooled[i] : Combine(args.reduce, total[i], pooled[i]);
    }
  }
  const size_t first =
      static_cast<size_t>(blockIdx.x) * kTileTokens + threadIdx.x * kOutputsPerThread;
  float* scores = args.scores + blockIdx.y * args.copies * args.scores_row_stride;
#pragma unroll
  for (int i = 0; i < kOutputsPerThread; ++i) {
    if (first + i >= args.num_tokens) continue;
    const float score = passes > 1 ? Finish(args.reduce, total[i], p.group) : total[i];
    for (size_t copy = 0; copy < args.copies; ++copy) {
      scores[copy * args.scores_row_stride + first + i] = score;
    }
  }
}

bool Commute(Pooling pooling, GroupReduce reduce) {
  if (pooling == Pooling::kNone) return true;
  return (pooling == Pooling::kMax) == (reduce == GroupReduce::kMax);
}

}  // namespace

absl::Status PoolScores(cudaStream_t stream, const PoolScoresArgs& args) {
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  constexpr size_t kMost = size_t{1} << 30;
  if (args.kernel % 2 == 0 || args.kernel > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat("kernel ", args.kernel, ": wanted an odd number below 2^30"));
  }
  if (args.reduce == GroupReduce::kNone && args.num_query_heads != args.num_kv_heads) {
    return absl::InvalidArgumentError("reduce none: wanted num_kv_heads = num_query_heads");
  }
  if (args.num_tokens < 1 || args.num_tokens > kMost || args.votes_row_stride < args.num_tokens ||
      args.scores_row_stride < args.num_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_tokens ", args.num_tokens, ": wanted 1 up to 2^30 and the row strides ",
                     args.votes_row_stride, " and ", args.scores_row_stride));
  }
  Params p = {};
  p.args = args;
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.reduce_first = args.reduce_before_pooling || Commute(args.pooling, args.reduce);
  const dim3 grid((args.num_tokens + kTileTokens - 1) / kTileTokens, args.num_kv_heads);
  return LaunchEarly(stream, grid, dim3(kThreads), 0, PoolKernel, p);
}

}  // namespace kvship::cuda
