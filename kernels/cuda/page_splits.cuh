// What the kernels of paged attention share: how work is cut into splits and units, the copy of a
// unit of 16-bit elements, and how the results of warps become that of a split. Device code, for
// paged_attention.cu and quantized_attention.cu.
#pragma once

#include <cmath>

#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {

inline constexpr int kWarps = 4;  // of a block, which takes one split of one head
inline constexpr int kSplitThreads = kWarps * kWarpThreads;
// Half a page of 16-bit elements, which a warp works on by itself: 16 tokens are one step of the
// product with V.
inline constexpr int kUnitTokens = 16;
inline constexpr int kUnitsPerPage = static_cast<int>(kPageTokens) / kUnitTokens;

// A batch's attention, as its kernels get it.
struct PagedSplits {
  PagedAttentionArgs args;
  uint32_t num_requests;  // B * H
  int group;              // query heads of a KV head
  float scale;            // log2(e) / sqrt(D)
  float* partials;        // [num_splits, group, D]: unnormalised outputs
  float2* stats;          // [num_splits, group]: maximum (in units of log2) and sum
};

// The splits of a batch whose prefixes are quantized: quantized_attention.cu.
absl::Status LaunchQuantizedSplits(cudaStream_t stream, const PagedSplits& p);

// A block's split.
struct Split {
  uint32_t request;  // B * H for those past the last split
  int number;        // of the request's splits
  bool is_only;      // the request has no other
};

// Which split of which request is number blockIdx.x of all. Every lane of a warp calls it: they
// look at 32 requests at a time, as nothing can start before it is found.
__device__ inline Split FindSplit(const PagedSplits& p, int lane) {
  const uint32_t* first_split = p.args.first_split;
  const uint32_t index = blockIdx.x;
  const uint32_t num_splits = first_split[p.num_requests];
  uint32_t begin = 0, count = p.num_requests;  // it is of one of these, and begins with them
  while (count > 1) {
    const uint32_t step = (count + kWarpThreads - 1) / kWarpThreads;
    const uint32_t own = lane * step;
    const bool is_before = own < count && first_split[begin + own] <= index;
    const uint32_t part = __popc(__ballot_sync(0xffffffffu, is_before)) - 1;
    begin += part * step;
    count = min(step, count - part * step);
  }
  if (index >= num_splits) return {p.num_requests, 0, false};
  const uint32_t first = first_split[begin], next = first_split[begin + 1];
  return {begin, static_cast<int>(index - first), next - first == 1};
}

// Half a page: where its keys lie (its values lie half a page's bytes further), and how many of its
// tokens count.
template <class T>
struct Unit {
  const T* keys;
  int num_tokens;
  bool in_tail;
};

template <class T, int kHeadDim>
__device__ Unit<T> FindUnit(const PagedHead& head, int unit) {
  const PageSlice slice = SliceOf(head, unit / kUnitsPerPage);
  const int half_page = unit % kUnitsPerPage;
  const int num_tokens =
      min(static_cast<int>(slice.num_tokens) - half_page * kUnitTokens, kUnitTokens);
  if (num_tokens <= 0) return {nullptr, 0, slice.in_tail};
  const std::byte* page = (slice.in_tail ? head.tail_pages : head.prefix_pages)[slice.page];
  return {reinterpret_cast<const T*>(page) + half_page * kUnitTokens * kHeadDim, num_tokens,
          slice.in_tail};
}

// Starts the copy of one unit, K then V, into a stage of the warp's ring. Slots that do not count
// become zeros: they may hold anything, and zero times NaN is NaN.
template <class T, int kHeadDim>
__device__ void StartUnit(const Unit<T>& unit, int lane, T* stage) {
  constexpr int kChunks = kHeadDim / kChunkElements;
  if (unit.num_tokens > 0) {
#pragma unroll
    for (int i = lane; i < 2 * kUnitTokens * kChunks; i += kWarpThreads) {
      const bool is_value = i >= kUnitTokens * kChunks;
      const int row = i / kChunks % kUnitTokens, chunk = i % kChunks;
      const T* from = unit.keys + (is_value ? kPageTokens * kHeadDim : 0) + row * kHeadDim +
                      chunk * kChunkElements;
      T* to = stage + (is_value ? kUnitTokens * kHeadDim : 0) + TileOffset(kHeadDim, row, chunk);
      CopyChunkAsync(to, from, row < unit.num_tokens);
    }
  }
  CommitCopies();
}

// One element of the outputs of `count` parts, part after part, merged by their maxima and sums;
// the parts' outputs and stats lie `out_stride` and `stats_stride` apart. What is fused is said, so
// that all who merge get the same bits. The loads of kAhead parts are under way at once, and none
// is behind a branch: past the end they are of the last part, which then has no weight.
struct Merged {
  float out;
  float maximum;
  float sum;
};
template <int kAhead>
__device__ inline Merged Merge(const float* out, size_t out_stride, const float2* stats,
                               size_t stats_stride, int count) {
  Merged merged = {0.0f, -INFINITY, 0.0f};
#pragma unroll 1
  for (int first = 0; first < count; first += kAhead) {
    float maxima[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) maxima[k] = stats[min(first + k, count - 1) * stats_stride].x;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) merged.maximum = fmaxf(merged.maximum, maxima[k]);
  }
#pragma unroll 1
  for (int first = 0; first < count; first += kAhead) {
    float2 parts[kAhead];
    float outs[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = min(first + k, count - 1);
      parts[k] = stats[i * stats_stride];
      outs[k] = out[i * out_stride];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const bool counts = first + k < count;
      const float weight = counts & (parts[k].y > 0.0f) ? Exp2(parts[k].x - merged.maximum) : 0.0f;
      const float sum = fmaf(parts[k].y, weight, merged.sum);
      const float sum_of_outs = fmaf(outs[k], weight, merged.out);
      merged.sum = counts ? sum : merged.sum;
      merged.out = weight > 0.0f ? sum_of_outs : merged.out;  // zero times NaN is NaN
    }
  }
  return merged;
}
__device__ inline float Normalised(const Merged& merged) {
  return merged.sum > 0.0f ? merged.out / merged.sum : 0.0f;
}

template <class T>
__device__ void StoreElement(T* to, float x) {
  to->bits = static_cast<uint16_t>(PackPair<T>(x, 0.0f));
}

// Merges the results of a block's warps, outputs [kWarps, kRows, D] and stats [kWarps, kRows] in
// shared memory, and stores them as a part of the head's output or as the output itself.
template <class T, int kHeadDim, int kRows>
__device__ void StoreSplit(const PagedSplits& p, const Split& split, const float* warp_out,
                           const float2* warp_stats) {
  const size_t first_row = static_cast<size_t>(blockIdx.x) * p.group;
  for (int i = threadIdx.x; i < p.group * kHeadDim; i += kSplitThreads) {
    const int row = i / kHeadDim, column = i % kHeadDim;
    const Merged merged =
        Merge<kWarps>(warp_out + i, kRows * kHeadDim, warp_stats + row, kRows, kWarps);
    if (split.is_only) {
      StoreElement(static_cast<T*>(p.args.out) + size_t{split.request} * p.group * kHeadDim + i,
                   Normalised(merged));
    } else {
      p.partials[first_row * kHeadDim + i] = merged.out;
      if (column == 0) p.stats[first_row + row] = make_float2(merged.maximum, merged.sum);
    }
  }
}

}  // namespace kvship::cuda
