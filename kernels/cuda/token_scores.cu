#include <cmath>

#include "base/random.h"
#include "base/status_macros.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/token_scores.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;

// A key lies in kHeadDim / 8 neighbouring threads, a chunk in each.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) SmallNormKernel(const ScoreTokensArgs args) {
  constexpr int kKeyThreads = kHeadDim / kChunkElements;
  const size_t token = (static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x) / kKeyThreads;
  const int chunk = threadIdx.x % kKeyThreads;
  float squares = 0.0f;
  if (token < args.num_tokens) {
    const T* key =
        static_cast<const T*>(args.keys) + blockIdx.y * args.key_head_stride + token * kHeadDim;
    float x[kChunkElements];
    UnpackChunk<T>(reinterpret_cast<const uint4*>(key)[chunk], x);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) squares += x[e] * x[e];
  }
#pragma unroll
  for (int step = kKeyThreads / 2; step > 0; step /= 2) {
    squares += __shfl_xor_sync(0xffffffffu, squares, step);
  }
  if (chunk == 0 && token < args.num_tokens) {
    args.scores[blockIdx.y * args.scores_row_stride + token] = -sqrtf(squares);
  }
}

__global__ void __launch_bounds__(kThreads) IndexKernel(const ScoreTokensArgs args) {
  const size_t token = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (token >= args.num_tokens) return;
  float score = static_cast<float>(token);
  if (args.score == TokenScore::kRandom) {
    const uint64_t bits = RandomBits(RandomBits(args.seed, blockIdx.y), token);
    score = static_cast<float>(bits >> 40) * 0x1p-24f;
  }
  args.scores[blockIdx.y * args.scores_row_stride + token] = score;
}

__global__ void __launch_bounds__(kThreads) FillKernel(const FillScoresArgs args) {
  const size_t token = args.begin + static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (token >= args.end) return;
  args.scores[blockIdx.y * args.scores_row_stride + token] = args.score;
}

__global__ void __launch_bounds__(kThreads) MeanKernel(const MeanOverQueriesArgs args) {
  const size_t token = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (token >= args.num_tokens) return;
  args.scores[blockIdx.y * args.scores_row_stride + token] /=
      static_cast<float>(args.num_tokens - token);
}

dim3 GridFor(size_t num_threads, size_t num_heads) {
  return dim3((num_threads + kThreads - 1) / kThreads, num_heads);
}

}  // namespace

absl::Status ScoreTokens(cudaStream_t stream, const ScoreTokensArgs& args) {
  constexpr size_t kMostTokens = size_t{1} << 24;  // whose positions a float holds
  if (args.num_kv_heads < 1 || args.num_tokens < 1 || args.num_tokens > kMostTokens ||
      args.scores_row_stride < args.num_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_kv_heads ", args.num_kv_heads, ", num_tokens ", args.num_tokens,
                     ", scores_row_stride ", args.scores_row_stride,
                     ": wanted at least 1 of each, at most 2^24 tokens, and rows that hold them"));
  }
  if (args.score != TokenScore::kSmallNorm) {
    return Launch(stream, GridFor(args.num_tokens, args.num_kv_heads), dim3(kThreads), 0,
                  IndexKernel, args);
  }
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim, [&](auto head_dim) {
      return Launch(stream,
                    GridFor(args.num_tokens * head_dim() / kChunkElements, args.num_kv_heads),
                    dim3(kThreads), 0, SmallNormKernel<T, head_dim()>, args);
    });
  });
}

absl::Status FillScores(cudaStream_t stream, const FillScoresArgs& args) {
  if (args.num_heads < 1 || args.begin >= args.end || args.scores_row_stride < args.end) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_heads ", args.num_heads, ", tokens ", args.begin, " to ", args.end,
                     ", scores_row_stride ", args.scores_row_stride,
                     ": wanted at least one head and token, and rows that hold them"));
  }
  return Launch(stream, GridFor(args.end - args.begin, args.num_heads), dim3(kThreads), 0,
                FillKernel, args);
}

absl::Status MeanOverQueries(cudaStream_t stream, const MeanOverQueriesArgs& args) {
  if (args.num_kv_heads < 1 || args.num_tokens < 1 || args.scores_row_stride < args.num_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_kv_heads ", args.num_kv_heads, ", num_tokens ", args.num_tokens,
                     ", scores_row_stride ", args.scores_row_stride,
                     ": wanted at least 1 of each, and rows that hold them"));
  }
  return Launch(stream, GridFor(args.num_tokens, args.num_kv_heads), dim3(kThreads), 0, MeanKernel,
                args);
}

}  // namespace kvship::cuda
