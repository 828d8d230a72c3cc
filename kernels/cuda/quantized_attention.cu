#include <algorithm>
#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/page_splits.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quantized_units.cuh"

namespace kvship::cuda {
namespace {

constexpr int kQueryTile = 8;  // columns of an m16n8k16 product
// A warp has two pages of a split, and both under way from the start: four blocks on a
// multiprocessor keep 160 KiB of int4 under way, at D = 128.
constexpr int kPagesPerWarp = kSplitPages / kWarps;
static_assert(kPagesPerWarp == 2);

// Over the eight lanes that hold one column of an accumulator; every lane has the result.
__device__ float ColumnMax(float x) {
#pragma unroll
  for (int lanes = 4; lanes < kWarpThreads; lanes *= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  }
  return x;
}
__device__ float ColumnSum(float x) {
#pragma unroll
  for (int lanes = 4; lanes < kWarpThreads; lanes *= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, lanes);
  }
  return x;
}

// One warp's share of a split: its queries, and the online softmax over the units it has seen. Of
// each tile of queries a lane holds two neighbouring ones.
template <class T, class Layout, int kHeadDim, int kQueryTiles>
struct WarpState {
  QueryOperands<kHeadDim, kQueryTiles> q;
  Outputs<kHeadDim, kQueryTiles> out = {};
  float maximum[kQueryTiles][2];
  float sum[kQueryTiles][2] = {};  // of the lane's tokens

  __device__ void Begin(const T* queries, int group, int lane) {
#pragma unroll
    for (int n = 0; n < kQueryTiles; ++n) {
      maximum[n][0] = maximum[n][1] = -INFINITY;
      const int row = n * kQueryTile + (lane >> 2);
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
        const T* from = queries + row * kHeadDim + Layout::KeyChannel(lane & 3, step);
        q[n][step][0] = row < group ? *reinterpret_cast<const uint32_t*>(from) : 0;
        q[n][step][1] = row < group ? *reinterpret_cast<const uint32_t*>(from + 2) : 0;
      }
    }
  }

  // Takes in a unit of which the first `num_tokens` count.
  template <class Unit>
  __device__ void Attend(const Unit& unit, int num_tokens, float scale, int lane) {
    Scores<Unit::kTiles, kQueryTiles> scores = {};
    unit.MultiplyKeys(q, lane, scores);
    Weights<Unit::kTiles, kQueryTiles> weights;
    const float score_scale = scale * unit.KeyScale(), weight_scale = unit.ValueScale();
#pragma unroll
    for (int n = 0; n < kQueryTiles; ++n) {
      Weigh<Unit::kTiles>(scores, n, num_tokens, score_scale, weight_scale, lane, weights);
    }
    unit.MultiplyValues(weights, lane, out);
  }

  // Scores of the queries of tile `n` to weights relative to the new maxima, as the operand B of
  // the product with V; what was summed before is scaled to those maxima.
  template <int kTiles>
  __device__ void Weigh(Scores<kTiles, kQueryTiles>& scores, int n, int num_tokens,
                        float score_scale, float weight_scale, int lane,
                        Weights<kTiles, kQueryTiles>& weights) {
    float unit_maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) {
      float& score = scores[i / 4][n][i % 4];
      const bool counts = i / 2 * 8 + (lane >> 2) < num_tokens;
      score = counts ? score * score_scale : -INFINITY;
      unit_maximum[i % 2] = fmaxf(unit_maximum[i % 2], score);
    }
    float rescale[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float new_maximum = fmaxf(maximum[n][e], ColumnMax(unit_maximum[e]));
      rescale[e] = Exp2(maximum[n][e] - new_maximum);
      maximum[n][e] = new_maximum;
      sum[n][e] *= rescale[e];
    }
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      const float* pair = &scores[i / 2][n][i % 2 * 2];
      const float low = Exp2(pair[0] - maximum[n][0]), high = Exp2(pair[1] - maximum[n][1]);
      sum[n][0] += low;
      sum[n][1] += high;
      weights[i / 2][n][i % 2] =
          TransposeMatrix(PackPair<T>(low * weight_scale, high * weight_scale));
    }
#pragma unroll
    for (int tile = 0; tile < kHeadDim / 16; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[tile][n][i] *= rescale[i % 2];
    }
  }

  // Outputs [queries, D] and stats [queries].
  __device__ void Store(int group, int lane, float* outputs, float2* stats) const {
#pragma unroll
    for (int n = 0; n < kQueryTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = n * kQueryTile + AccumulatorColumn(lane) + e;
        const float total = ColumnSum(sum[n][e]);
        if (row >= group) continue;
        if (lane < 4) stats[row] = make_float2(maximum[n][e], total);
#pragma unroll
        for (int tile = 0; tile < kHeadDim / 16; ++tile) {
          *reinterpret_cast<float2*>(outputs + row * kHeadDim +
                                     Layout::ValueChannel(lane >> 2, tile)) =
              make_float2(out[tile][n][e], out[tile][n][e + 2]);
        }
      }
    }
  }
};

// Shared memory of a warp: its pages, and then half a page of the tail at a time.
template <class T, PageFormat kFormat, int kHeadDim>
struct WarpMemory {
  static constexpr int kLine = 128;  // CodeLayout permutes within it
  static constexpr int kPageBytes =
      (QuantizedUnit<T, kFormat, kHeadDim>::kBytes + kLine - 1) / kLine * kLine;
  static constexpr int kBytes = kPagesPerWarp * kPageBytes;
  static_assert(kBytes >= TailUnit<T, kFormat, kHeadDim>::kBytes);
};

// A block takes one split of one head; its warps take turns with the split's pages.
template <class T, PageFormat kFormat, int kHeadDim, int kQueryTiles>
__global__ void __launch_bounds__(kSplitThreads, kQueryTiles == 1 ? 4 : 2)
    QuantizedSplitKernel(const PagedSplits p) {
  using Page = QuantizedUnit<T, kFormat, kHeadDim>;
  using Memory = WarpMemory<T, kFormat, kHeadDim>;
  WaitForTheKernelBefore();
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const Split split = FindSplit(p, lane);
  if (split.request == p.num_requests) return;
  const PagedHead head = p.args.heads[split.request];
  const int num_pages = NumPages(head);
  if (split.number > 0 && split.number * kSplitPages >= num_pages) return;
  std::byte* memory = DynamicSharedMemory() + warp * Memory::kBytes;
  const int first_page = split.number * kSplitPages + warp;

  const std::byte* pages[kPagesPerWarp];
  int num_tokens[kPagesPerWarp];
#pragma unroll
  for (int i = 0; i < kPagesPerWarp; ++i) {
    const PageSlice slice = SliceOf(head, first_page + i * kWarps);
    num_tokens[i] = slice.in_tail ? 0 : static_cast<int>(slice.num_tokens);
    pages[i] = num_tokens[i] > 0 ? head.prefix_pages[slice.page] : nullptr;
  }
#pragma unroll
  for (int i = 0; i < kPagesPerWarp; ++i) {
    if (num_tokens[i] > 0) {
      Page::Start(pages[i], num_tokens[i], lane, memory + i * Memory::kPageBytes);
    }
    CommitCopies();
  }
  WarpState<T, CodeLayout<kFormat, kHeadDim>, kHeadDim, kQueryTiles> state;
  const size_t sequence = split.request / p.args.num_kv_heads;
  const size_t kv_head = split.request % p.args.num_kv_heads;
  state.Begin(static_cast<const T*>(p.args.q) + sequence * p.args.q_row_stride +
                  kv_head * p.group * kHeadDim,
              p.group, lane);
#pragma unroll 1
  for (int i = 0; i < kPagesPerWarp; ++i) {
    WaitForCopies<kPagesPerWarp - 1>();
    CommitCopies();  // an empty group, so that the next wait is for the next page
    __syncwarp();    // every lane's part of the page has arrived
    const int count = i == 0 ? num_tokens[0] : num_tokens[1];
    if (count > 0) state.Attend(Page{memory + i * Memory::kPageBytes}, count, p.scale, lane);
  }
#pragma unroll 1
  for (int i = 0; i < kPagesPerWarp * kUnitsPerPage; ++i) {
    const int page = first_page + i / kUnitsPerPage * kWarps;
    if (!SliceOf(head, page).in_tail) continue;
    const Unit<T> unit = FindUnit<T, kHeadDim>(head, page * kUnitsPerPage + i % kUnitsPerPage);
    if (unit.num_tokens == 0) continue;
    __syncwarp();  // every lane has read what was there
    StartUnit<T, kHeadDim>(unit, lane, reinterpret_cast<T*>(memory));
    WaitForCopies<0>();
    __syncwarp();
    state.Attend(TailUnit<T, kFormat, kHeadDim>{memory}, unit.num_tokens, p.scale, lane);
  }

  __syncthreads();  // the pages are read, and their memory holds the warps' results now
  constexpr int kRows = kQueryTiles * kQueryTile;
  float* warp_out = reinterpret_cast<float*>(DynamicSharedMemory());
  float2* warp_stats = reinterpret_cast<float2*>(warp_out + kWarps * kRows * kHeadDim);
  state.Store(p.group, lane, warp_out + warp * kRows * kHeadDim, warp_stats + warp * kRows);
  __syncthreads();
  StoreSplit<T, kHeadDim, kRows>(p, split, warp_out, warp_stats);
}

template <class T, PageFormat kFormat, int kHeadDim, int kQueryTiles>
absl::Status LaunchKernel(cudaStream_t stream, const PagedSplits& p) {
  constexpr size_t kPagesBytes = size_t{kWarps} * WarpMemory<T, kFormat, kHeadDim>::kBytes;
  constexpr size_t kResultBytes =
      size_t{kWarps} * kQueryTiles * kQueryTile * (kHeadDim * sizeof(float) + sizeof(float2));
  return LaunchEarly(stream, dim3(p.args.num_splits), dim3(kSplitThreads),
                     std::max(kPagesBytes, kResultBytes),
                     QuantizedSplitKernel<T, kFormat, kHeadDim, kQueryTiles>, p);
}

template <class T, PageFormat kFormat>
absl::Status LaunchFormat(cudaStream_t stream, const PagedSplits& p) {
  return WithHeadDim(p.args.head_dim, [&](auto head_dim) {
    return p.group <= kQueryTile ? LaunchKernel<T, kFormat, head_dim(), 1>(stream, p)
                                 : LaunchKernel<T, kFormat, head_dim(), 2>(stream, p);
  });
}

}  // namespace

absl::Status LaunchQuantizedSplits(cudaStream_t stream, const PagedSplits& p) {
  return WithElementType(p.args.dtype, [&](auto element) {
    using T = decltype(element);
    switch (p.args.prefix_format) {
      case PageFormat::kFp8: return LaunchFormat<T, PageFormat::kFp8>(stream, p);
      case PageFormat::kInt8: return LaunchFormat<T, PageFormat::kInt8>(stream, p);
      default: return LaunchFormat<T, PageFormat::kInt4>(stream, p);
    }
  });
}

}  // namespace kvship::cuda
