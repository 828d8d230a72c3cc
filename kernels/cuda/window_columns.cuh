// What both of Hopper's ways to the votes share: the queries of a KV head's query heads lie side by
// side as columns of one product with the keys, and each column's share becomes part of a vote. For
// window_votes_sm90.cu and window_votes_tma_sm90.cu.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

struct WindowPass {
  WindowVotesArgs args;
  int group;    // query heads of a KV head
  int tiles;    // of keys
  float scale;  // log2(e) / sqrt(D)
};
inline WindowPass MakeWindowPass(const WindowVotesArgs& args, size_t tile_tokens) {
  return {.args = args,
          .group = static_cast<int>(args.num_query_heads / args.num_kv_heads),
          .tiles = static_cast<int>((args.num_keys + tile_tokens - 1) / tile_tokens),
          .scale = kLog2E / std::sqrt(static_cast<float>(args.head_dim))};
}

// Columns are the queries of consecutive heads from `first_head`, kWindow each.
template <int kWindow>
struct WindowColumns {
  const WindowPass& pass;
  int first_head;
  int num_heads;  // the columns of further ones are padding, as are those past the real window

  __device__ bool IsQuery(int column) const {
    return column / kWindow < num_heads && column % kWindow < static_cast<int>(pass.args.window);
  }
  // In units of log2; that of padding is such that its share is zero.
  __device__ float MinusLogSumExp(int column) const {
    const size_t head = first_head + column / kWindow;
    return IsQuery(column)
               ? -pass.args.lse[head * pass.args.lse_head_stride + column % kWindow] * kLog2E
               : -INFINITY;
  }
  // The first query that sees the key whose position, or whose row's, that is. May be negative.
  __device__ int FirstQuery(size_t position) const {
    return static_cast<int>(static_cast<int64_t>(position) -
                            static_cast<int64_t>(pass.args.first_position));
  }

  // Sums of the shares that this lane has of one head, in each of its two rows: score(tile, e) is
  // element e of the accumulator of eight columns. Queries before `first_query` do not see the key
  // of the first row, nor those before eight more that of the second. Only tiles in the window
  // itself need the comparisons, which cost as much as all else.
  template <bool kMasked, class Score>
  __device__ float2 LaneSums(Score score, const float* minus_lse, int head, int first_query,
                             int lane) const {
    float sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < kWindow / 8; ++j) {
      const int tile = head * (kWindow / 8) + j;  // of eight columns
      const int column = tile * 8 + AccumulatorColumn(lane);
      const float2 lse = *reinterpret_cast<const float2*>(minus_lse + column);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float share = Exp2(fmaf(score(tile, e), pass.scale, e & 1 ? lse.y : lse.x));
        if constexpr (kMasked) {
          const int query = j * 8 + AccumulatorColumn(lane) + (e & 1);
          if (query < first_query + (e >> 1) * 8) share = 0.0f;
        }
        sums[e >> 1] += share;
      }
    }
    return make_float2(sums[0], sums[1]);
  }
};

// launch(element, head_dim, window, heads) with a pass' types: an element, and three constants. As
// many heads at once as 128 columns hold; no more than there are, rounded up to a power of two.
template <class LaunchPass>
absl::Status WithWindowColumns(const WindowPass& pass, LaunchPass launch) {
  return WithElementType(pass.args.dtype, [&](auto element) {
    return WithHeadDim(pass.args.head_dim, [&](auto head_dim) {
      const auto with_heads = [&](auto window) {
        constexpr int kMostHeads = 128 / window();
        const auto with = [&](auto heads) { return launch(element, head_dim, window, heads); };
        if (pass.group == 1) return with(std::integral_constant<int, 1>());
        if constexpr (kMostHeads > 2) {
          if (pass.group > 2) {
            if constexpr (kMostHeads > 4) {
              if (pass.group > 4) return with(std::integral_constant<int, 8>());
            }
            return with(std::integral_constant<int, 4>());
          }
        }
        return with(std::integral_constant<int, 2>());
      };
      if (pass.args.window <= 16) return with_heads(std::integral_constant<int, 16>());
      if (pass.args.window <= 32) return with_heads(std::integral_constant<int, 32>());
      return with_heads(std::integral_constant<int, 64>());
    });
  });
}

}  // namespace kvship::cuda
