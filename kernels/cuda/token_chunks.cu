#include "base/status_macros.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/token_chunks.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
// Each has a range of its own, and each block of the next kernel reads all of these.
constexpr unsigned kRangeBlocks = kThreads;

// The largest score's key, and that of the smallest with its bits turned round: both grow as the
// range does. Zeros where none of the scores is a number.
struct KeyRange {
  uint32_t largest;
  uint32_t turned_smallest;
};

// The number of a key; minus infinity where none of the scores is a number.
__device__ float ScoreOf(uint32_t key) {
  if (key == 0) return -INFINITY;
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

__device__ KeyRange BlockRange(KeyRange range) {
  const uint32_t largest = BlockMax(range.largest);
  __syncthreads();
  return {largest, BlockMax(range.turned_smallest)};
}

// ranges[block] = the range of the block's part of the scores.
__global__ void __launch_bounds__(kThreads)
    RangeKernel(const ChunkScoresArgs args, KeyRange* ranges) {
  WaitForTheKernelBefore();
  KeyRange range = {0, 0};
  for (size_t h = 0; h < args.num_heads; ++h) {
    const float* row = args.scores + h * args.scores_row_stride;
    for (size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.num_scored;
         i += static_cast<size_t>(gridDim.x) * kThreads) {
      const uint32_t key = ScoreKey(__float_as_uint(row[i]));
      range.largest = max(range.largest, key);
      range.turned_smallest = max(range.turned_smallest, key == 0 ? 0 : ~key);
    }
  }
  range = BlockRange(range);
  if (threadIdx.x == 0) ranges[blockIdx.x] = range;
}

// A thread takes a chunk.
__global__ void __launch_bounds__(kThreads)
    ChunkScoresKernel(const ChunkScoresArgs args, const KeyRange* ranges) {
  WaitForTheKernelBefore();
  const KeyRange range = BlockRange(ranges[threadIdx.x]);
  const double largest = ScoreOf(range.largest);
  const double smallest = range.turned_smallest == 0 ? INFINITY : ScoreOf(~range.turned_smallest);
  const double num_heads = static_cast<double>(args.num_heads);
  const double always_kept = num_heads * (largest + 1);
  const size_t chunk = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  const size_t begin = chunk * args.chunk_tokens;
  if (begin >= args.num_tokens) return;
  const size_t end = min(begin + args.chunk_tokens, args.num_tokens);
  double sum = 0;
  for (size_t i = begin; i < end; ++i) {
    double of_token = 0;
    if (i < args.num_sinks || i >= args.num_tokens - args.num_recent) {
      of_token = always_kept;
    } else if (i >= args.num_scored) {
      of_token = num_heads * smallest;
    } else {
      for (size_t h = 0; h < args.num_heads; ++h) {
        of_token += args.scores[h * args.scores_row_stride + i];
      }
    }
    sum += of_token;
  }
  args.chunk_scores[chunk] = static_cast<float>(sum / static_cast<double>(end - begin));
}

// Blocks of column y write head y's.
__global__ void __launch_bounds__(kThreads) ChunkPositionsKernel(const ChunkPositionsArgs args) {
  WaitForTheKernelBefore();
  const auto last_chunk = static_cast<size_t>(args.chunks[args.num_chunks - 1]);
  const size_t last_end = (last_chunk + 1) * args.chunk_tokens;
  const size_t missing = last_end > args.num_tokens ? last_end - args.num_tokens : 0;
  const size_t count = args.num_chunks * args.chunk_tokens - missing;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) {
    const auto chunk = static_cast<size_t>(args.chunks[i / args.chunk_tokens]);
    args.positions[blockIdx.y * count + i] =
        static_cast<int32_t>(chunk * args.chunk_tokens + i % args.chunk_tokens);
  }
  if (i != 0) return;
  args.offsets[blockIdx.y + 1] = static_cast<int32_t>((blockIdx.y + 1) * count);
  if (blockIdx.y == 0) args.offsets[0] = 0;
}

}  // namespace

size_t ChunkScoresWorkspaceBytes() { return kRangeBlocks * sizeof(KeyRange); }

absl::Status ChunkScores(cudaStream_t stream, const ChunkScoresArgs& args) {
  if (args.num_heads < 1 || args.chunk_tokens < 1 || args.num_recent > args.num_tokens ||
      args.num_scored > args.num_tokens || args.scores_row_stride < args.num_scored) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_heads ", args.num_heads, ", chunk_tokens ", args.chunk_tokens, ", num_tokens ",
        args.num_tokens, ", num_scored ", args.num_scored, ", num_recent ", args.num_recent,
        ", scores_row_stride ", args.scores_row_stride,
        ": wanted heads and tokens, and no more scores and recent tokens than tokens"));
  }
  auto* const ranges = static_cast<KeyRange*>(args.workspace);
  RETURN_IF_ERROR(
      LaunchEarly(stream, dim3(kRangeBlocks), dim3(kThreads), 0, RangeKernel, args, ranges));
  const size_t num_chunks = (args.num_tokens + args.chunk_tokens - 1) / args.chunk_tokens;
  return LaunchEarly(stream, dim3((num_chunks + kThreads - 1) / kThreads), dim3(kThreads), 0,
                     ChunkScoresKernel, args, ranges);
}

absl::Status ChunkPositions(cudaStream_t stream, const ChunkPositionsArgs& args) {
  if (args.num_heads < 1 || args.num_heads > 65535 || args.num_chunks < 1 ||
      args.chunk_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_heads ", args.num_heads, ", num_chunks ", args.num_chunks,
                     ", chunk_tokens ", args.chunk_tokens, ": wanted at least 1 of each"));
  }
  const size_t most = args.num_chunks * args.chunk_tokens;
  return LaunchEarly(stream, dim3((most + kThreads - 1) / kThreads, args.num_heads), dim3(kThreads),
                     0, ChunkPositionsKernel, args);
}

}  // namespace kvship::cuda
