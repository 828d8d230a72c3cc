#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

// Compiled for sm_90a alone; WindowVotes() has checked the arguments.

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kThreads = 128;    // one warpgroup
constexpr int kBlocks = 2;       // on a multiprocessor
constexpr int kHalfTokens = 64;  // rows of a product
// One half's scores are computed while those of the other become votes, and the next tile is on its
// way: 64 KiB on a multiprocessor, at D = 128.
constexpr int kTileTokens = 2 * kHalfTokens;
constexpr int kStages = 2;
constexpr int kProductColumns = 64;  // of MultiplyAdd64
constexpr size_t kPanelAlignment = 1024;

struct Params {
  WindowVotesArgs args;
  int group;    // query heads of a KV head
  int tiles;    // of kTileTokens keys
  float scale;  // log2(e) / sqrt(D)
};

// Columns are the queries of kHeads heads, kWindow each: those past the real window are padding.
template <int kHeadDim, int kWindow, int kHeads>
struct Shape {
  static constexpr int kColumns = kWindow * kHeads;
  static constexpr int kProducts = (kColumns + kProductColumns - 1) / kProductColumns;
  static constexpr int kQueryRows = kProducts * kProductColumns;
  static constexpr int kTileElements = kTileTokens * kHeadDim;
  static constexpr int kQueryElements = kQueryRows * kHeadDim;
  static constexpr size_t kSharedBytes =
      kPanelAlignment + kQueryRows * sizeof(float) + 2 * (kQueryElements + kStages * kTileElements);
};

template <class T, int kHeadDim>
__device__ void StartTile(const Params& p, const T* keys, int tile, T* shared) {
  constexpr int kChunks = kHeadDim / kChunkElements;
  const size_t first = static_cast<size_t>(tile) * kTileTokens;
#pragma unroll
  for (int i = threadIdx.x; i < kTileTokens * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < p.args.num_keys;
    const T* from = valid ? keys + (first + row) * kHeadDim + chunk * kChunkElements : keys;
    CopyChunkAsync(shared + PanelOffset(kTileTokens, row, chunk), from, valid);
  }
}

// The queries of the block's heads, and their log-sum-exps in units of log2; padding has a
// log-sum-exp of infinity, so that its share is zero.
template <class T, int kHeadDim, int kWindow, int kHeads>
__device__ void StartQueries(const Params& p, int first_head, int num_heads, T* shared,
                             float* minus_lse) {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  constexpr int kChunks = kHeadDim / kChunkElements;
  const T* q = static_cast<const T*>(p.args.q);
  const int window = static_cast<int>(p.args.window);
  for (int i = threadIdx.x; i < S::kQueryRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int head = row / kWindow, w = row % kWindow;
    const bool valid = head < num_heads && w < window;
    const size_t query = (first_head + head) * p.args.q_head_stride + w * p.args.q_row_stride;
    const T* from = valid ? q + query + chunk * kChunkElements : q;
    CopyChunkAsync(shared + PanelOffset(S::kQueryRows, row, chunk), from, valid);
  }
  for (int row = threadIdx.x; row < S::kQueryRows; row += kThreads) {
    const int head = row / kWindow, w = row % kWindow;
    const bool valid = head < num_heads && w < window;
    minus_lse[row] =
        valid ? -p.args.lse[(first_head + head) * p.args.lse_head_stride + w] * kLog2E : -INFINITY;
  }
}

// Begins scores[product] = keys queries^T of one tile.
template <class T, int kHeadDim, int kProducts>
__device__ void StartProducts(const T* keys, const T* queries, float (&scores)[kProducts][32]) {
  constexpr int kQueryRows = kProducts * kProductColumns;
  constexpr int kStepBytes = 16 * sizeof(T);
  const uint32_t key_address = SharedAddress(keys), query_address = SharedAddress(queries);
  BeginProducts();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const int panel = step / 4, within = step % 4 * kStepBytes;
    const uint64_t a = OperandOf(key_address + panel * kTileTokens * 128 + within);
#pragma unroll
    for (int product = 0; product < kProducts; ++product) {
      const uint64_t b = OperandOf(query_address + within +
                                   (panel * kQueryRows + product * kProductColumns) * 128);
      MultiplyAdd64<T>(scores[product], a, b, step > 0);
    }
  }
  CommitProducts();
}

// Votes of one head's columns on this lane's two rows, over the four lanes that share the rows.
// Queries before `first_query` do not see the key of the first row, nor those before eight more
// that of the second. Only tiles in the window itself need the comparisons, which cost as much as
// all else.
template <bool kMasked, int kWindow, int kProducts>
__device__ float2 Votes(const Params& p, const float (&scores)[kProducts][32],
                        const float* minus_lse, int head, int first_query, int lane) {
  float sums[2] = {0.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < kWindow / 8; ++j) {
    const int tile = head * (kWindow / 8) + j;  // of eight columns
    const int column = tile * 8 + AccumulatorColumn(lane);
    const float2 lse = *reinterpret_cast<const float2*>(minus_lse + column);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float score = scores[tile / 8][tile % 8 * 4 + e];
      float share = Exp2(fmaf(score, p.scale, e & 1 ? lse.y : lse.x));
      if constexpr (kMasked) {
        const int query = j * 8 + AccumulatorColumn(lane) + (e & 1);
        if (query < first_query + (e >> 1) * 8) share = 0.0f;
      }
      sums[e >> 1] += share;
    }
  }
  return make_float2(QuadSum(sums[0]), QuadSum(sums[1]));
}

// A block's share of the work: a run of tiles of one KV head, and the queries of kHeads of its
// query heads.
template <class T, int kHeadDim, int kWindow, int kHeads>
struct Block {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  using Scores = float[S::kProducts][32];

  const Params& p;
  const T* keys;
  T* queries;
  T* ring;
  float* minus_lse;
  int first_head, num_heads;
  int begin, end;  // tiles

  __device__ T* Stage(int tile) const { return ring + (tile - begin) % kStages * S::kTileElements; }
  __device__ void Load(int tile) const {
    if (tile < end) StartTile<T, kHeadDim>(p, keys, tile, Stage(tile));
    CommitCopies();
  }
  __device__ void Multiply(int tile, int half, Scores& scores) const {
    StartProducts<T, kHeadDim, S::kProducts>(Stage(tile) + half * kHalfTokens * kPanelElements,
                                             queries, scores);
  }

  __device__ size_t FirstKey(int tile, int half) const {
    return static_cast<size_t>(tile) * kTileTokens + half * kHalfTokens +
           threadIdx.x / kWarpThreads * 16;
  }

  // What this lane writes of half a tile: lanes 0 and 1 of the quad have a row each.
  __device__ void Vote(int tile, int half, const Scores& scores, float (&votes)[kHeads]) const {
    const size_t first_key = FirstKey(tile, half);
    if (first_key + 15 > p.args.first_position) {
      VoteOnRows<true>(first_key, scores, votes);
    } else {
      VoteOnRows<false>(first_key, scores, votes);
    }
  }
  template <bool kMasked>
  __device__ void VoteOnRows(size_t first_key, const Scores& scores, float (&votes)[kHeads]) const {
    const int lane = threadIdx.x % kWarpThreads;
    const int first_query =
        static_cast<int>(static_cast<int64_t>(first_key) + AccumulatorRow(lane) -
                         static_cast<int64_t>(p.args.first_position));
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const float2 sums =
          Votes<kMasked, kWindow, S::kProducts>(p, scores, minus_lse, head, first_query, lane);
      votes[head] = lane & 1 ? sums.y : sums.x;
    }
  }

  __device__ void Write(int tile, int half, const float (&votes)[kHeads]) const {
    const int lane = threadIdx.x % kWarpThreads;
    const size_t key = FirstKey(tile, half) + AccumulatorRow(lane) + (lane & 1) * 8;
    if ((lane & 3) > 1 || key >= p.args.num_keys) return;
    float* to = p.args.votes + static_cast<size_t>(first_head) * p.args.votes_row_stride + key;
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (head >= num_heads) continue;
      float& vote = to[head * p.args.votes_row_stride];
      vote = p.args.accumulate ? vote + votes[head] : votes[head];
    }
  }
};

template <class T, int kHeadDim, int kWindow, int kHeads>
__global__ void __launch_bounds__(kThreads, kBlocks) VotesKernel(const Params p) {
  using B = Block<T, kHeadDim, kWindow, kHeads>;
  WaitForTheKernelBefore();
  const uint32_t past = SharedAddress(DynamicSharedMemory()) % kPanelAlignment;
  T* const queries =
      reinterpret_cast<T*>(DynamicSharedMemory() + (kPanelAlignment - past) % kPanelAlignment);
  T* const ring = queries + B::S::kQueryElements;
  const int head_in_group = blockIdx.z * kHeads;
  const B block = {
      .p = p,
      .keys = static_cast<const T*>(p.args.keys) + blockIdx.y * p.args.key_head_stride,
      .queries = queries,
      .ring = ring,
      .minus_lse = reinterpret_cast<float*>(ring + kStages * B::S::kTileElements),
      .first_head = static_cast<int>(blockIdx.y) * p.group + head_in_group,
      .num_heads = min(kHeads, p.group - head_in_group),
      .begin = static_cast<int>(static_cast<int64_t>(p.tiles) * blockIdx.x / gridDim.x),
      .end = static_cast<int>(static_cast<int64_t>(p.tiles) * (blockIdx.x + 1) / gridDim.x)};
  StartQueries<T, kHeadDim, kWindow, kHeads>(p, block.first_head, block.num_heads, block.queries,
                                             block.minus_lse);
  block.Load(block.begin);
  float first_votes[kHeads], second_votes[kHeads];
  for (int tile = block.begin; tile < block.end; ++tile) {
    WaitForCopies<0>();
    PublishToTensorCores();
    __syncthreads();  // the tile has arrived, and everyone has left the one before it
    block.Load(tile + 1);
    typename B::Scores first, second;
    block.Multiply(tile, 0, first);
    block.Multiply(tile, 1, second);
    // Only now: what was written right before would have to arrive before the tile is published.
    if (tile > block.begin) {
      block.Write(tile - 1, 0, first_votes);
      block.Write(tile - 1, 1, second_votes);
    }
    WaitForProducts<1>(first);
    block.Vote(tile, 0, first, first_votes);
    WaitForProducts<0>(second);
    block.Vote(tile, 1, second, second_votes);
  }
  if (block.begin == block.end) return;
  block.Write(block.end - 1, 0, first_votes);
  block.Write(block.end - 1, 1, second_votes);
}

template <class T, int kHeadDim, int kWindow, int kHeads>
absl::Status LaunchVotes(cudaStream_t stream, const Params& p) {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  ASSIGN_OR_RETURN(const size_t processors, NumMultiprocessors());
  const unsigned head_blocks = (p.group + kHeads - 1) / kHeads;
  // As many blocks as are resident at once, so that every one keeps its queries and its pipeline.
  const size_t runs =
      std::max<size_t>(1, processors * kBlocks / (p.args.num_kv_heads * head_blocks));
  const dim3 grid(std::min<size_t>(runs, p.tiles), p.args.num_kv_heads, head_blocks);
  return LaunchEarly(stream, grid, dim3(kThreads), S::kSharedBytes,
                     VotesKernel<T, kHeadDim, kWindow, kHeads>, p);
}

// As many heads at once as 128 columns hold; no more than there are, rounded up to a power of two.
template <class T, int kHeadDim, int kWindow>
absl::Status LaunchWindow(cudaStream_t stream, const Params& p) {
  constexpr int kMostHeads = 128 / kWindow;
  if (p.group == 1) return LaunchVotes<T, kHeadDim, kWindow, 1>(stream, p);
  if constexpr (kMostHeads > 2) {
    if (p.group > 2) {
      if constexpr (kMostHeads > 4) {
        if (p.group > 4) return LaunchVotes<T, kHeadDim, kWindow, 8>(stream, p);
      }
      return LaunchVotes<T, kHeadDim, kWindow, 4>(stream, p);
    }
  }
  return LaunchVotes<T, kHeadDim, kWindow, 2>(stream, p);
}

}  // namespace

absl::Status WindowVotesSm90(cudaStream_t stream, const WindowVotesArgs& args) {
  Params p = {};
  p.args = args;
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.tiles = static_cast<int>((args.num_keys + kTileTokens - 1) / kTileTokens);
  p.scale = kLog2E / std::sqrt(static_cast<float>(args.head_dim));
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim, [&](auto head_dim) {
      if (args.window <= 16) return LaunchWindow<T, head_dim(), 16>(stream, p);
      if (args.window <= 32) return LaunchWindow<T, head_dim(), 32>(stream, p);
      return LaunchWindow<T, head_dim(), 64>(stream, p);
    });
  });
}

}  // namespace kvship::cuda
