#include <algorithm>
#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/barrier.cuh"
#include "kernels/cuda/box_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/window_columns.cuh"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

// Compiled for sm_90a alone. One block fills a multiprocessor: one thread of its last warp keeps
// boxes of keys coming through a ring of stages, and each warpgroup takes every third tile from
// there. Copies take none of their instructions, and while the products of one are under way those
// of others become votes. A fourth warpgroup would leave a thread 96 registers, too few: warps get
// theirs by fours, so that 17 of them share what 20 do.
constexpr int kWarpgroups = 3;
constexpr int kWarpgroupWarps = 4;
constexpr int kProducerWarp = kWarpgroups * kWarpgroupWarps;
constexpr int kThreads = (kProducerWarp + 1) * kWarpThreads;
constexpr int kTileTokens = 64;  // rows of a product
// 192 KiB at D = 128, of which three tiles are being read: the memory's latency at its full speed
// takes about 32 KiB. Stages come in multiples of the warpgroups, so that each is always the same
// one's: of a barrier's phases only the parity is seen, and a warpgroup that comes to a stage which
// another used before may be two phases ahead.
constexpr int kMostStages = 12;
constexpr size_t kMostSharedBytes = size_t{227} << 10;  // of a block of compute capability 9.0
// Of up to 128 columns each, so that the keys are read once for more of a KV head's query heads.
// From two on exponentials and products take longer than reading the keys.
constexpr int kMostParts = 2;

struct Params {
  WindowPass pass;
  TensorMap queries;  // [Hq, W, D]
  TensorMap keys;     // [H, num_keys, D]
  int most_parts;     // of a block's columns
  int stages;
};

// Of a part: kHeads heads, kWindow columns each. Products of 64 columns at least: what those past
// kColumns hold is nobody's.
template <int kHeadDim, int kWindow, int kHeads>
struct Shape {
  static constexpr int kColumns = kWindow * kHeads;
  static constexpr int kProductColumns = kColumns <= 64 ? 64 : 128;
  static constexpr int kPanels = kHeadDim / static_cast<int>(kPanelElements);
  static constexpr int kTileElements = kTileTokens * kHeadDim;
  static constexpr int kPartElements = kProductColumns * kHeadDim;
  // What barriers count: whole boxes, also where there are fewer keys, queries or heads.
  static constexpr int kTileBytes = 2 * kTileElements;
  static constexpr int kPartBytes = 2 * kColumns * kHeadDim;

  static constexpr size_t kStageBytes = kTileBytes + 2 * sizeof(SharedBarrier);
  static constexpr size_t BytesWithoutStages(int parts) {
    return kPanelAlignment + sizeof(SharedBarrier) +
           parts * (2 * kPartElements + kColumns * sizeof(float));
  }
};

// Sums over the four lanes of a quad, which share two rows: this lane's are those of row lane & 1,
// of all heads or, from two on, of the half with the number lane >> 1 & 1. The order of additions
// is QuadSum()'s.
template <int kHeads>
struct QuadVotes {
  static constexpr int kOwn = kHeads > 1 ? kHeads / 2 : 1;
  float own[kOwn];

  __device__ QuadVotes(const float2 (&sums)[kHeads], int lane) {
    constexpr unsigned kAll = 0xffffffffu;
    const bool second_row = (lane & 1) != 0, second_half = (lane & 2) != 0;
    float row[kHeads];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const float others = second_row ? sums[head].x : sums[head].y;
      row[head] = (second_row ? sums[head].y : sums[head].x) + __shfl_xor_sync(kAll, others, 1);
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float upper = row[kHeads > 1 ? i + kOwn : 0];
      const float others = second_half ? row[i] : upper;
      own[i] = (second_half ? upper : row[i]) + __shfl_xor_sync(kAll, others, 2);
    }
  }
};

// A block's share of the work: a run of tiles of one KV head, and the queries of up to kHeads of
// its query heads in each of `parts`.
template <class T, int kHeadDim, int kWindow, int kHeads>
struct Block {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  using Scores = float[S::kProductColumns / 2];
  static constexpr int kOwn = QuadVotes<kHeads>::kOwn;

  const Params& p;
  T* queries;        // [parts] of panels
  T* ring;           // [stages] of panels
  float* minus_lse;  // [parts, kColumns]
  SharedBarrier* queries_full;
  SharedBarrier* full;   // [stages]
  SharedBarrier* empty;  // [stages]
  int first_head, num_heads, parts;
  int begin, end;  // tiles

  __device__ explicit Block(const Params& params) : p(params) {
    const uint32_t past = SharedAddress(DynamicSharedMemory()) % kPanelAlignment;
    queries =
        reinterpret_cast<T*>(DynamicSharedMemory() + (kPanelAlignment - past) % kPanelAlignment);
    ring = queries + p.most_parts * S::kPartElements;
    minus_lse = reinterpret_cast<float*>(ring + p.stages * S::kTileElements);
    queries_full = reinterpret_cast<SharedBarrier*>(minus_lse + p.most_parts * S::kColumns);
    full = queries_full + 1;
    empty = full + p.stages;
    const int block_heads = p.most_parts * kHeads;
    const int head_in_group = static_cast<int>(blockIdx.z) * block_heads;
    first_head = static_cast<int>(blockIdx.y) * p.pass.group + head_in_group;
    num_heads = min(block_heads, p.pass.group - head_in_group);
    parts = (num_heads + kHeads - 1) / kHeads;
    begin = static_cast<int>(static_cast<int64_t>(p.pass.tiles) * blockIdx.x / gridDim.x);
    end = static_cast<int>(static_cast<int64_t>(p.pass.tiles) * (blockIdx.x + 1) / gridDim.x);
  }
  // The columns of a part.
  __device__ WindowColumns<kWindow> Columns(int part) const {
    return {.pass = p.pass,
            .first_head = first_head + part * kHeads,
            .num_heads = num_heads - part * kHeads};
  }

  // The work of the producer's thread: this before the others may look at barriers ...
  __device__ void StartCopies() const {
    Init(*queries_full, 1);
    for (int stage = 0; stage < p.stages; ++stage) {
      Init(full[stage], 1);
      Init(empty[stage], kWarpgroupWarps);
    }
    PublishToAsyncProxy();
    ArriveAndExpect(*queries_full, parts * S::kPartBytes);
    for (int part = 0; part < parts; ++part) {
      for (int panel = 0; panel < S::kPanels; ++panel) {
        T* to = queries + part * S::kPartElements + panel * S::kProductColumns * kPanelElements;
        CopyBoxAsync(to, p.queries, panel * kPanelElements, 0, first_head + part * kHeads,
                     *queries_full);
      }
    }
    for (int tile = begin; tile < min(begin + p.stages, end); ++tile) CopyTile(tile, tile - begin);
  }
  // ... and this beside them.
  __device__ void CopyTheRest() const {
    int stage = 0;
    uint32_t parity = 0;
    for (int tile = begin + p.stages; tile < end; ++tile) {
      WaitForPhase(empty[stage], parity);
      CopyTile(tile, stage);
      if (++stage == p.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
  __device__ void CopyTile(int tile, int stage) const {
    ArriveAndExpect(full[stage], S::kTileBytes);
    for (int panel = 0; panel < S::kPanels; ++panel) {
      T* to = ring + stage * S::kTileElements + panel * kTileTokens * kPanelElements;
      CopyBoxAsync(to, p.keys, panel * kPanelElements, tile * kTileTokens, blockIdx.y, full[stage]);
    }
  }

  // The work of a warpgroup.
  __device__ void VoteOnTiles(int warpgroup) const {
    WaitForPhase(*queries_full, 0);
    int stage = warpgroup;
    uint32_t parity = 0;
    for (int tile = begin + warpgroup; tile < end; tile += kWarpgroups) {
      WaitForPhase(full[stage], parity);
      for (int part = 0; part < parts; ++part) {
        Scores scores;
        Multiply(stage, part, scores);
        // Meanwhile what they are added to comes.
        const OwnVotes to = OwnVotesOf(tile, part);
        float before[kOwn];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          before[i] = p.pass.args.accumulate && i < to.num_heads ? *to.Of(i) : 0.0f;
        }
        WaitForProducts<0>(scores);
        // Each warp has its own share of the products, and has waited for that alone.
        if (part + 1 == parts && threadIdx.x % kWarpThreads == 0) Arrive(empty[stage]);
        const QuadVotes<kHeads> votes = Vote(tile, part, scores);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          if (i < to.num_heads) *to.Of(i) = before[i] + votes.own[i];
        }
      }
      stage += kWarpgroups;
      if (stage >= p.stages) {
        stage -= p.stages;
        parity ^= 1;
      }
    }
  }

  // Begins scores = keys queries^T of one stage and part.
  __device__ void Multiply(int stage, int part, Scores& scores) const {
    constexpr int kPanelRowBytes = 128, kStepBytes = 16 * sizeof(T);
    const uint64_t keys = OperandOf(SharedAddress(ring + stage * S::kTileElements));
    const uint64_t columns = OperandOf(SharedAddress(queries + part * S::kPartElements));
    BeginProducts();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      const int panel = step / 4, within = step % 4 * kStepBytes;
      const uint64_t a = OperandAfter(keys, panel * kTileTokens * kPanelRowBytes + within);
      const uint64_t b =
          OperandAfter(columns, panel * S::kProductColumns * kPanelRowBytes + within);
      if constexpr (S::kProductColumns == 64) {
        MultiplyAdd64<T>(scores, a, b, step > 0);
      } else {
        MultiplyAdd128<T>(scores, a, b, step > 0);
      }
    }
    CommitProducts();
  }

  __device__ static size_t FirstKey(int tile) {
    const int warp = threadIdx.x / kWarpThreads % kWarpgroupWarps;
    return static_cast<size_t>(tile) * kTileTokens + warp * 16;
  }
  __device__ QuadVotes<kHeads> Vote(int tile, int part, const Scores& scores) const {
    return FirstKey(tile) + 15 > p.pass.args.first_position ? VoteOnRows<true>(tile, part, scores)
                                                            : VoteOnRows<false>(tile, part, scores);
  }
  template <bool kMasked>
  __device__ QuadVotes<kHeads> VoteOnRows(int tile, int part, const Scores& scores) const {
    const int lane = threadIdx.x % kWarpThreads;
    const WindowColumns<kWindow> columns = Columns(part);
    const int first_query = columns.FirstQuery(FirstKey(tile) + AccumulatorRow(lane));
    const auto score = [&](int eight, int e) { return scores[eight * 4 + e]; };
    float2 sums[kHeads];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      sums[head] = columns.template LaneSums<kMasked>(score, minus_lse + part * S::kColumns, head,
                                                      first_query, lane);
    }
    return QuadVotes<kHeads>(sums, lane);
  }

  // Where this lane's QuadVotes belong.
  struct OwnVotes {
    float* first;
    size_t row_stride;
    int num_heads;
    __device__ float* Of(int head) const { return first + head * row_stride; }
  };
  __device__ OwnVotes OwnVotesOf(int tile, int part) const {
    const WindowVotesArgs& args = p.pass.args;
    const int lane = threadIdx.x % kWarpThreads;
    const size_t key = FirstKey(tile) + AccumulatorRow(lane) + (lane & 1) * 8;
    const int head = part * kHeads + (lane >> 1 & 1) * kOwn;
    const int part_end = min(num_heads, (part + 1) * kHeads);  // of a single head one lane writes
    return {.first = args.votes + (first_head + head) * args.votes_row_stride + key,
            .row_stride = args.votes_row_stride,
            .num_heads = key < args.num_keys ? min(kOwn, part_end - head) : 0};
  }
};

template <class T, int kHeadDim, int kWindow, int kHeads>
__global__ void __launch_bounds__(kThreads, 1) VotesKernel(const __grid_constant__ Params p) {
  using B = Block<T, kHeadDim, kWindow, kHeads>;
  WaitForTheKernelBefore();
  const B block(p);
  const int warp = threadIdx.x / kWarpThreads;
  const bool copies = warp == kProducerWarp && threadIdx.x % kWarpThreads == 0;
  if (copies) block.StartCopies();
  for (int i = threadIdx.x; i < block.parts * B::S::kColumns; i += kThreads) {
    const int part = i / B::S::kColumns;
    block.minus_lse[i] = block.Columns(part).MinusLogSumExp(i % B::S::kColumns);
  }
  __syncthreads();
  if (copies) {
    block.CopyTheRest();
  } else if (warp < kProducerWarp) {
    block.VoteOnTiles(warp / kWarpgroupWarps);
  }
}

template <class T, int kHeadDim, int kWindow, int kHeads>
absl::Status LaunchVotes(cudaStream_t stream, const WindowPass& pass) {
  using S = Shape<kHeadDim, kWindow, kHeads>;
  const WindowVotesArgs& args = pass.args;
  ASSIGN_OR_RETURN(const size_t processors, NumMultiprocessors());
  Params p = {};
  p.pass = pass;
  p.most_parts = std::min((pass.group + kHeads - 1) / kHeads, kMostParts);
  const size_t bytes = S::BytesWithoutStages(p.most_parts);
  const int stages = static_cast<int>((kMostSharedBytes - bytes) / S::kStageBytes);
  p.stages = std::min(kMostStages, stages / kWarpgroups * kWarpgroups);
  ASSIGN_OR_RETURN(p.queries,
                   MakeTensorMap({.data = args.q,
                                  .dims = {args.head_dim, args.window, args.num_query_heads},
                                  .strides = {args.q_row_stride, args.q_head_stride},
                                  .box_rows = {kWindow, kHeads}}));
  ASSIGN_OR_RETURN(p.keys, MakeTensorMap({.data = args.keys,
                                          .dims = {args.head_dim, args.num_keys, args.num_kv_heads},
                                          .strides = {args.head_dim, args.key_head_stride},
                                          .box_rows = {kTileTokens, 1}}));
  const int block_heads = p.most_parts * kHeads;
  const unsigned head_blocks = (pass.group + block_heads - 1) / block_heads;
  const size_t runs = std::max<size_t>(1, processors / (args.num_kv_heads * head_blocks));
  const dim3 grid(std::min<size_t>(runs, pass.tiles), args.num_kv_heads, head_blocks);
  // All of it, also where less would do: a kernel's limit belongs to its device, not to this call.
  return LaunchEarly(stream, grid, dim3(kThreads), kMostSharedBytes,
                     VotesKernel<T, kHeadDim, kWindow, kHeads>, p);
}

}  // namespace

absl::Status WindowVotesTma(cudaStream_t stream, const WindowVotesArgs& args) {
  RETURN_IF_ERROR(CheckWindowVotes(args));
  const WindowPass pass = MakeWindowPass(args, kTileTokens);
  return WithWindowColumns(pass, [&](auto element, auto head_dim, auto window, auto heads) {
    return LaunchVotes<decltype(element), head_dim(), window(), heads()>(stream, pass);
  });
}

}  // namespace kvship::cuda
