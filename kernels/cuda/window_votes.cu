#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/window_tiles.cuh"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

struct Params {
  WindowVotesArgs args;
  int group;            // query heads of a KV head
  int heads_per_block;  // of them
  int tiles;            // of kTileTokens keys
  float scale;          // log2(e) / sqrt(D)
};

// One query head's queries and their log-sum-exps, in registers. Columns past the window have a
// log-sum-exp of infinity, so that their share is zero.
template <class T, int kHeadDim, int kColumnTiles>
struct Queries {
  WindowQueries<T, kHeadDim, kColumnTiles> q;
  float minus_lse[kColumnTiles][2];  // in units of log2

  __device__ void Load(const WindowVotesArgs& args, int head, int lane) {
    const int window = static_cast<int>(args.window);
    q.Load(static_cast<const T*>(args.q) + head * args.q_head_stride, args.q_row_stride, window,
           lane);
    const float* lse = args.lse + head * args.lse_head_stride;
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = j * 8 + AccumulatorColumn(lane) + e;
        minus_lse[j][e] = column < window ? -lse[column] * kLog2E : -INFINITY;
      }
    }
  }
};

// Votes of 16 keys of the tile, the first at position `first_key`, for one query head.
template <class T, int kHeadDim, int kColumnTiles>
__device__ void VoteOnRows(const Params& p, const Queries<T, kHeadDim, kColumnTiles>& queries,
                           const T* rows, int lane, size_t first_key, float* votes) {
  float c[kColumnTiles][4] = {};
  queries.q.Multiply(rows, lane, c);
  const size_t key = first_key + AccumulatorRow(lane);
  const bool masked = first_key + 15 > p.args.first_position;
  float sums[2] = {0.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float share = Exp2(fmaf(c[j][e], p.scale, queries.minus_lse[j][e & 1]));
      if (masked) {
        const size_t position = p.args.first_position + j * 8 + AccumulatorColumn(lane) + (e & 1);
        if (key + (e >> 1) * 8 > position) share = 0.0f;
      }
      sums[e >> 1] += share;
    }
  }
  sums[0] = QuadSum(sums[0]);
  sums[1] = QuadSum(sums[1]);
  const size_t own_key = key + (lane & 1) * 8;  // lanes 0 and 1 of the quad write a row each
  if ((lane & 3) > 1 || own_key >= p.args.num_keys) return;
  const float vote = lane & 1 ? sums[1] : sums[0];
  votes[own_key] = p.args.accumulate ? votes[own_key] + vote : vote;
}

// A block takes a run of tiles of one KV head. Its warps are (row group, query head): each keeps
// one query head's queries in registers and votes on every row group's share of each tile.
template <class T, int kHeadDim, int kColumnTiles>
__global__ void __launch_bounds__(256, kColumnTiles <= 4 ? 2 : 1) VotesKernel(const Params p) {
  WaitForTheKernelBefore();
  T* ring = reinterpret_cast<T*>(DynamicSharedMemory());
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int row_groups = blockDim.x / kWarpThreads / p.heads_per_block;
  const int row_group = warp / p.heads_per_block;
  const int head_in_group = blockIdx.z * p.heads_per_block + warp % p.heads_per_block;
  const bool has_head = head_in_group < p.group;  // the last block of a group may have fewer
  const int head = blockIdx.y * p.group + head_in_group;
  const T* keys = static_cast<const T*>(p.args.keys) + blockIdx.y * p.args.key_head_stride;
  float* votes = p.args.votes + static_cast<size_t>(head) * p.args.votes_row_stride;

  const int begin = static_cast<int64_t>(p.tiles) * blockIdx.x / gridDim.x;
  const int end = static_cast<int64_t>(p.tiles) * (blockIdx.x + 1) / gridDim.x;
  Queries<T, kHeadDim, kColumnTiles> queries;
  const auto load = [&] {
    if (has_head) queries.Load(p.args, head, lane);
  };
  const auto use = [&](int tile, const T* rows) {
    if (!has_head) return;
    for (int r = row_group; r < kRowTiles; r += row_groups) {
      VoteOnRows<T, kHeadDim, kColumnTiles>(p, queries, rows + r * 16 * kHeadDim, lane,
                                            static_cast<size_t>(tile) * kTileTokens + r * 16,
                                            votes);
    }
  };
  StreamTiles<T, kHeadDim>(keys, p.args.num_keys, begin, end, ring, load, use);
}

template <class T>
__global__ void NaiveKernel(const Params p) {
  const WindowVotesArgs& args = p.args;
  const size_t key = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const size_t head = blockIdx.y;
  if (key >= args.num_keys) return;
  const T* k = static_cast<const T*>(args.keys) + head / p.group * args.key_head_stride +
               key * args.head_dim;
  float vote = 0.0f;
  for (size_t w = 0; w < args.window; ++w) {
    if (key > args.first_position + w) continue;
    const T* q = static_cast<const T*>(args.q) + head * args.q_head_stride + w * args.q_row_stride;
    float dot = 0.0f;
    for (size_t d = 0; d < args.head_dim; ++d) dot += ToFloat(q[d]) * ToFloat(k[d]);
    vote += expf(dot / sqrtf(static_cast<float>(args.head_dim)) -
                 args.lse[head * args.lse_head_stride + w]);
  }
  float& out = args.votes[head * args.votes_row_stride + key];
  out = args.accumulate ? out + vote : vote;
}

template <class T, int kHeadDim, int kColumnTiles>
absl::Status LaunchVotes(cudaStream_t stream, Params p) {
  ASSIGN_OR_RETURN(const size_t processors, NumMultiprocessors());
  p.heads_per_block = std::min(p.group, kMaxHeadsPerBlock);
  const int row_groups = RowGroups(p.group);
  const unsigned head_blocks = (p.group + p.heads_per_block - 1) / p.heads_per_block;
  // As many blocks as are resident at once, so that every one keeps its queries and its pipeline.
  const size_t resident = processors * (kColumnTiles <= 4 ? 2 : 1);
  const size_t runs = std::max<size_t>(1, resident / (p.args.num_kv_heads * head_blocks));
  const dim3 grid(std::min<size_t>(runs, p.tiles), p.args.num_kv_heads, head_blocks);
  return LaunchEarly(stream, grid, dim3(kWarpThreads * row_groups * p.heads_per_block),
                     size_t{kTileStages} * kTileTokens * kHeadDim * sizeof(T),
                     VotesKernel<T, kHeadDim, kColumnTiles>, p);
}

Params MakeParams(const WindowVotesArgs& args) {
  Params p = {};
  p.args = args;
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.tiles = static_cast<int>((args.num_keys + kTileTokens - 1) / kTileTokens);
  p.scale = kLog2E / std::sqrt(static_cast<float>(args.head_dim));
  return p;
}

}  // namespace

absl::Status CheckWindowVotes(const WindowVotesArgs& args) {
  RETURN_IF_ERROR(CheckWindowPass(args));
  if (args.votes_row_stride < args.num_keys) {
    return absl::InvalidArgumentError(absl::StrCat("votes_row_stride ", args.votes_row_stride,
                                                   ": wanted at least ", args.num_keys));
  }
  if (args.q_row_stride < args.head_dim || args.q_row_stride % kChunkElements != 0 ||
      args.q_head_stride < args.head_dim || args.q_head_stride % kChunkElements != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("q_row_stride ", args.q_row_stride, ", q_head_stride ", args.q_head_stride,
                     ": wanted multiples of 8, at least ", args.head_dim));
  }
  if (args.lse_head_stride < args.window) {
    return absl::InvalidArgumentError(
        absl::StrCat("lse_head_stride ", args.lse_head_stride, ": wanted at least ", args.window));
  }
  return absl::OkStatus();
}

absl::Status WindowVotes(cudaStream_t stream, const WindowVotesArgs& args) {
  ASSIGN_OR_RETURN(const bool is_hopper, IsHopper());
  return is_hopper ? WindowVotesSm90(stream, args) : WindowVotesSm80(stream, args);
}

absl::Status WindowVotesSm80(cudaStream_t stream, const WindowVotesArgs& args) {
  RETURN_IF_ERROR(CheckWindowVotes(args));
  const Params p = MakeParams(args);
  return WithWindowPass(args, [&](auto element, auto head_dim, auto column_tiles) {
    return LaunchVotes<decltype(element), head_dim(), column_tiles()>(stream, p);
  });
}

absl::Status WindowVotesNaive(cudaStream_t stream, const WindowVotesArgs& args) {
  RETURN_IF_ERROR(CheckWindowVotes(args));
  return WithElementType(args.dtype, [&](auto element) {
    const dim3 grid((args.num_keys + 127) / 128, args.num_query_heads);
    return Launch(stream, grid, dim3(128), 0, NaiveKernel<decltype(element)>, MakeParams(args));
  });
}

}  // namespace kvship::cuda
