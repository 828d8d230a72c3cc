#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/window_sums.h"
#include "kernels/cuda/window_tiles.cuh"

namespace kvship::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
// Keys of a part: queries, loaded once per part, are an eighth of what a block reads at W = 32 and
// four query heads per KV head.
constexpr int kPartTiles = 16;
constexpr int kMergeWarps = 4;  // rows of a block that merges parts

// The sum of 2^scores, relative to the largest: sum * 2^maximum.
struct RunningSum {
  float maximum;
  float sum;
};
constexpr RunningSum kNothing = {-INFINITY, 0.0f};

__device__ RunningSum Merge(RunningSum a, RunningSum b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  const float weight_a = a.sum > 0.0f ? Exp2(a.maximum - maximum) : 0.0f;
  const float weight_b = b.sum > 0.0f ? Exp2(b.maximum - maximum) : 0.0f;
  return {maximum, a.sum * weight_a + b.sum * weight_b};
}

struct Params {
  WindowLogSumExpArgs args;
  RunningSum* parts;    // [Hq, W, num_parts]
  int group;            // query heads of a KV head
  int heads_per_block;  // of them
  int tiles;            // of kTileTokens keys
  float scale;          // log2(e) / sqrt(D)
};

// The running sums of a lane's columns, over the rows that it has seen.
template <int kColumnTiles>
struct ColumnSums {
  RunningSum sums[kColumnTiles][2];

  __device__ void Clear() {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) sums[j][0] = sums[j][1] = kNothing;
  }

  // Takes in the products with 16 keys, the first at position `first_key`.
  __device__ void Add(const Params& p, const float (&c)[kColumnTiles][4], size_t first_key,
                      int lane) {
    const size_t key = first_key + AccumulatorRow(lane);
    const bool masked = first_key + 15 > p.args.first_position || first_key + 16 > p.args.num_keys;
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float upper = c[j][e] * p.scale, lower = c[j][e + 2] * p.scale;
        if (masked) {
          const size_t position = p.args.first_position + j * 8 + AccumulatorColumn(lane) + e;
          if (key > position || key >= p.args.num_keys) upper = -INFINITY;
          if (key + 8 > position || key + 8 >= p.args.num_keys) lower = -INFINITY;
        }
        const float maximum = fmaxf(upper, lower);
        if (maximum == -INFINITY) continue;
        const RunningSum pair = {maximum, Exp2(upper - maximum) + Exp2(lower - maximum)};
        sums[j][e] = Merge(sums[j][e], pair);
      }
    }
  }

  // Over the eight lanes that have rows of the same columns; stores those of the window.
  __device__ void Store(int lane, RunningSum* to) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        RunningSum sum = sums[j][e];
#pragma unroll
        for (int lanes = 4; lanes < kWarpThreads; lanes *= 2) {
          const RunningSum other = {__shfl_xor_sync(0xffffffffu, sum.maximum, lanes),
                                    __shfl_xor_sync(0xffffffffu, sum.sum, lanes)};
          sum = Merge(sum, other);
        }
        if (lane < 4) to[j * 8 + AccumulatorColumn(lane) + e] = sum;
      }
    }
  }
};

// A block takes one part of one KV head's keys. Its warps are (row group, query head), as those of
// VotesKernel.
template <class T, int kHeadDim, int kColumnTiles>
__global__ void __launch_bounds__(256, kColumnTiles <= 4 ? 2 : 1) SumsKernel(const Params p) {
  WaitForTheKernelBefore();
  T* ring = reinterpret_cast<T*>(DynamicSharedMemory());
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int row_groups = blockDim.x / kWarpThreads / p.heads_per_block;
  const int row_group = warp / p.heads_per_block;
  const int head_in_group = blockIdx.z * p.heads_per_block + warp % p.heads_per_block;
  const bool has_head = head_in_group < p.group;  // the last block of a group may have fewer
  const int window = static_cast<int>(p.args.window);
  const T* keys = static_cast<const T*>(p.args.keys) + blockIdx.y * p.args.key_head_stride;

  const int begin = blockIdx.x * kPartTiles, end = min(begin + kPartTiles, p.tiles);
  WindowQueries<T, kHeadDim, kColumnTiles> queries;
  ColumnSums<kColumnTiles> sums;
  sums.Clear();
  const auto load = [&] {
    const size_t head = blockIdx.y * p.group + head_in_group;
    if (has_head) {
      queries.Load(static_cast<const T*>(p.args.q) + head * p.args.q_head_stride, kHeadDim, window,
                   lane);
    }
  };
  const auto use = [&](int tile, const T* rows) {
    if (!has_head) return;
    for (int r = row_group; r < kRowTiles; r += row_groups) {
      float c[kColumnTiles][4] = {};
      queries.Multiply(rows + r * 16 * kHeadDim, lane, c);
      sums.Add(p, c, static_cast<size_t>(tile) * kTileTokens + r * 16, lane);
    }
  };
  StreamTiles<T, kHeadDim>(keys, p.args.num_keys, begin, end, ring, load, use);
  __syncthreads();  // the ring is free, and holds the warps' sums now
  RunningSum* warp_sums = reinterpret_cast<RunningSum*>(DynamicSharedMemory());
  constexpr int kColumns = kColumnTiles * 8;
  sums.Store(lane, warp_sums + warp * kColumns);
  __syncthreads();
  for (int i = threadIdx.x; i < p.heads_per_block * window; i += blockDim.x) {
    const int own = i / window, column = i % window;
    const int in_group = blockIdx.z * p.heads_per_block + own;
    if (in_group >= p.group) continue;
    RunningSum sum = kNothing;
    for (int r = 0; r < row_groups; ++r) {
      sum = Merge(sum, warp_sums[(r * p.heads_per_block + own) * kColumns + column]);
    }
    const size_t row = (static_cast<size_t>(blockIdx.y) * p.group + in_group) * window + column;
    p.parts[row * gridDim.x + blockIdx.x] = sum;
  }
}

// A warp merges one query's parts.
__global__ void __launch_bounds__(kMergeWarps* kWarpThreads)
    MergeSumsKernel(const Params p, size_t num_rows, int num_parts) {
  WaitForTheKernelBefore();
  const int lane = threadIdx.x % kWarpThreads;
  const size_t row = static_cast<size_t>(blockIdx.x) * kMergeWarps + threadIdx.x / kWarpThreads;
  if (row >= num_rows) return;
  RunningSum sum = kNothing;
  for (int part = lane; part < num_parts; part += kWarpThreads) {
    sum = Merge(sum, p.parts[row * num_parts + part]);
  }
#pragma unroll
  for (int lanes = kWarpThreads / 2; lanes > 0; lanes /= 2) {
    const RunningSum other = {__shfl_xor_sync(0xffffffffu, sum.maximum, lanes),
                              __shfl_xor_sync(0xffffffffu, sum.sum, lanes)};
    sum = Merge(sum, other);
  }
  if (lane != 0) return;
  const size_t head = row / p.args.window, query = row % p.args.window;
  p.args.lse[head * p.args.lse_head_stride + query] = (sum.maximum + log2f(sum.sum)) * kLn2;
}

size_t NumParts(size_t num_keys) {
  constexpr size_t kPartKeys = size_t{kPartTiles} * kTileTokens;
  return (num_keys + kPartKeys - 1) / kPartKeys;
}

template <class T, int kHeadDim, int kColumnTiles>
absl::Status LaunchSums(cudaStream_t stream, const Params& p) {
  const unsigned head_blocks = (p.group + p.heads_per_block - 1) / p.heads_per_block;
  const dim3 grid(NumParts(p.args.num_keys), p.args.num_kv_heads, head_blocks);
  const int warps = RowGroups(p.group) * p.heads_per_block;
  RETURN_IF_ERROR(LaunchEarly(stream, grid, dim3(kWarpThreads * warps),
                              size_t{kTileStages} * kTileTokens * kHeadDim * sizeof(T),
                              SumsKernel<T, kHeadDim, kColumnTiles>, p));
  const size_t rows = p.args.num_query_heads * p.args.window;
  return LaunchEarly(stream, dim3((rows + kMergeWarps - 1) / kMergeWarps),
                     dim3(kMergeWarps * kWarpThreads), 0, MergeSumsKernel, p, rows,
                     static_cast<int>(grid.x));
}

}  // namespace

size_t WindowLogSumExpWorkspaceBytes(size_t num_query_heads, size_t window, size_t num_keys) {
  return num_query_heads * window * NumParts(num_keys) * sizeof(RunningSum);
}

absl::Status WindowLogSumExp(cudaStream_t stream, const WindowLogSumExpArgs& args) {
  RETURN_IF_ERROR(CheckWindowPass(args));
  Params p = {};
  p.args = args;
  p.parts = static_cast<RunningSum*>(args.workspace);
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.heads_per_block = std::min(p.group, kMaxHeadsPerBlock);
  p.tiles = static_cast<int>((args.num_keys + kTileTokens - 1) / kTileTokens);
  p.scale = kLog2E / std::sqrt(static_cast<float>(args.head_dim));
  return WithWindowPass(args, [&](auto element, auto head_dim, auto column_tiles) {
    return LaunchSums<decltype(element), head_dim(), column_tiles()>(stream, p);
  });
}

}  // namespace kvship::cuda
