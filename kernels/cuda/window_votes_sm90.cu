#include <algorithm>
#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/window_columns.cuh"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

// Compiled for sm_90a alone.

constexpr int kThreads = 128;    // one warpgroup
constexpr int kBlocks = 2;       // on a multiprocessor
constexpr int kHalfTokens = 64;  // rows of a product
// One half's scores are computed while those of the other become votes, and the next tile is on its
// way: 64 KiB on a multiprocessor, at D = 128.
constexpr int kTileTokens = 2 * kHalfTokens;
constexpr int kStages = 2;
constexpr int kProductColumns = 64;  // of MultiplyAdd64

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
__device__ void StartTile(const WindowPass& p, const T* keys, int tile, T* shared) {
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

// The queries of the block's heads, and their log-sum-exps.
template <class T, int kHeadDim, int kWindow, int kHeads>
__device__ void StartQueries(const WindowColumns<kWindow>& columns, T* shared, float* minus_lse) {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  constexpr int kChunks = kHeadDim / kChunkElements;
  const WindowVotesArgs& args = columns.pass.args;
  const T* q = static_cast<const T*>(args.q);
  for (int i = threadIdx.x; i < S::kQueryRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int head = row / kWindow, w = row % kWindow;
    const bool valid = columns.IsQuery(row);
    const size_t query = (columns.first_head + head) * args.q_head_stride + w * args.q_row_stride;
    const T* from = valid ? q + query + chunk * kChunkElements : q;
    CopyChunkAsync(shared + PanelOffset(S::kQueryRows, row, chunk), from, valid);
  }
  for (int row = threadIdx.x; row < S::kQueryRows; row += kThreads) {
    minus_lse[row] = columns.MinusLogSumExp(row);
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

// A block's share of the work: a run of tiles of one KV head, and the queries of kHeads of its
// query heads.
template <class T, int kHeadDim, int kWindow, int kHeads>
struct Block {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  using Scores = float[S::kProducts][32];

  const WindowPass& p;
  const T* keys;
  T* queries;
  T* ring;
  float* minus_lse;
  WindowColumns<kWindow> columns;
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
    const int first_query = columns.FirstQuery(first_key + AccumulatorRow(lane));
    const auto score = [&](int tile, int e) { return scores[tile / 8][tile % 8 * 4 + e]; };
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const float2 sums =
          columns.template LaneSums<kMasked>(score, minus_lse, head, first_query, lane);
      const float first = QuadSum(sums.x), second = QuadSum(sums.y);
      votes[head] = lane & 1 ? second : first;
    }
  }

  __device__ void Write(int tile, int half, const float (&votes)[kHeads]) const {
    const int lane = threadIdx.x % kWarpThreads;
    const size_t key = FirstKey(tile, half) + AccumulatorRow(lane) + (lane & 1) * 8;
    if ((lane & 3) > 1 || key >= p.args.num_keys) return;
    float* to =
        p.args.votes + static_cast<size_t>(columns.first_head) * p.args.votes_row_stride + key;
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (head >= columns.num_heads) continue;
      float& vote = to[head * p.args.votes_row_stride];
      vote = p.args.accumulate ? vote + votes[head] : votes[head];
    }
  }
};

template <class T, int kHeadDim, int kWindow, int kHeads>
__global__ void __launch_bounds__(kThreads, kBlocks) VotesKernel(const WindowPass p) {
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
      .columns = {.pass = p,
                  .first_head = static_cast<int>(blockIdx.y) * p.group + head_in_group,
                  .num_heads = min(kHeads, p.group - head_in_group)},
      .begin = static_cast<int>(static_cast<int64_t>(p.tiles) * blockIdx.x / gridDim.x),
      .end = static_cast<int>(static_cast<int64_t>(p.tiles) * (blockIdx.x + 1) / gridDim.x)};
  StartQueries<T, kHeadDim, kWindow, kHeads>(block.columns, block.queries, block.minus_lse);
  block.Load(block.begin);
  float first_votes[kHeads], second_votes[kHeads];
  for (int tile = block.begin; tile < block.end; ++tile) {
    WaitForCopies<0>();
    PublishToAsyncProxy();
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
absl::Status LaunchVotes(cudaStream_t stream, const WindowPass& p) {
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

}  // namespace

absl::Status WindowVotesSm90(cudaStream_t stream, const WindowVotesArgs& args) {
  RETURN_IF_ERROR(CheckWindowVotes(args));
  const WindowPass p = MakeWindowPass(args, kTileTokens);
  return WithWindowColumns(p, [&](auto element, auto head_dim, auto window, auto heads) {
    return LaunchVotes<decltype(element), head_dim(), window(), heads()>(stream, p);
  });
}

}  // namespace kvship::cuda
