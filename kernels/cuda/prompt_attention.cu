#include <cmath>
#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/prompt_attention.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpThreads;
constexpr int kBlockQueries = kWarps * 16;
constexpr int kTileKeys = 64;  // K and V, twice: 64 KiB at D = 128; registers let two blocks fit
constexpr int kStages = 2;

struct Params {
  PromptAttentionArgs args;
  int group;
  float scale;  // log2(e) / sqrt(D)
};

// Sixteen queries of one warp. A lane holds rows lane / 4 and lane / 4 + 8.
template <class T, int kHeadDim>
struct WarpRows {
  uint32_t q[kHeadDim / 16][4];
  float out[kHeadDim / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // this lane's share

  __device__ void LoadQueries(const PromptAttentionArgs& args, size_t head, size_t first,
                              int lane) {
    const T* queries = static_cast<const T*>(args.q) + head * kHeadDim;
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const size_t row = first + AccumulatorRow(lane) + (i & 1) * 8;
        const int column = s * 16 + (i >> 1) * 8 + AccumulatorColumn(lane);
        q[s][i] =
            row < args.num_queries
                ? *reinterpret_cast<const uint32_t*>(queries + row * args.q_row_stride + column)
                : 0;
      }
    }
  }

  // Takes in a tile of keys; `limit` is the number of its keys that this lane's first row may see,
  // its second row may see 8 more.
  __device__ void Attend(const T* keys, const T* values, int64_t limit, float scale, int lane) {
    float scores[kTileKeys / 8][4] = {};
    const MatrixRow key = RightThenDown(lane);
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; n += 2) {
        uint32_t b[4];
        LoadMatrices(b, keys + TileOffset(kHeadDim, n * 8 + key.row, s * 2 + key.chunk));
        MultiplyAdd<T>(scores[n], q[s], b[0], b[1]);
        MultiplyAdd<T>(scores[n + 1], q[s], b[2], b[3]);
      }
    }
    Weigh(scores, limit, scale, lane);
    const MatrixRow value = DownThenRight(lane);
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k) {
      uint32_t weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &scores[k * 2 + (i >> 1)][(i & 1) * 2];
        weights[i] = PackPair<T>(pair[0], pair[1]);
      }
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; j += 2) {
        uint32_t b[4];
        LoadMatricesTransposed(b,
                               values + TileOffset(kHeadDim, k * 16 + value.row, j + value.chunk));
        MultiplyAdd<T>(out[j], weights, b[0], b[1]);
        MultiplyAdd<T>(out[j + 1], weights, b[2], b[3]);
      }
    }
  }

  // Scores to weights relative to the new maximum; what was summed before is scaled to it.
  __device__ void Weigh(float (&scores)[kTileKeys / 8][4], int64_t limit, float scale, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float tile_maximum = -INFINITY;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][half * 2 + e];
          const bool visible = n * 8 + AccumulatorColumn(lane) + e < limit + half * 8;
          score = visible ? score * scale : -INFINITY;
          tile_maximum = fmaxf(tile_maximum, score);
        }
      }
      const float new_maximum = fmaxf(maximum[half], QuadMax(tile_maximum));
      // A row that sees nothing of its first tile has no maximum yet.
      const float base = new_maximum == -INFINITY ? 0.0f : new_maximum;
      const float rescale = Exp2(maximum[half] - base);
      maximum[half] = new_maximum;
      float tile_sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][half * 2 + e];
          score = Exp2(score - base);
          tile_sum += score;
        }
      }
      sum[half] = sum[half] * rescale + tile_sum;
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        out[j][half * 2] *= rescale;
        out[j][half * 2 + 1] *= rescale;
      }
    }
  }

  __device__ void Store(const PromptAttentionArgs& args, size_t head, size_t first, int lane) {
    T* to = static_cast<T*>(args.out);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const size_t row = first + AccumulatorRow(lane) + half * 8;
      const float total = QuadSum(sum[half]);
      if (row >= args.num_queries) continue;
      const float inverse = 1.0f / total;
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        const size_t column = head * kHeadDim + j * 8 + AccumulatorColumn(lane);
        *reinterpret_cast<uint32_t*>(to + row * args.num_query_heads * kHeadDim + column) =
            PackPair<T>(out[j][half * 2] * inverse, out[j][half * 2 + 1] * inverse);
      }
      if (args.lse != nullptr && (lane & 3) == 0) {
        args.lse[head * args.lse_row_stride + row] = maximum[half] * kLn2 + logf(total);
      }
    }
  }
};

template <class T, int kHeadDim>
__device__ void StartTile(const T* tensor, size_t first, size_t num_keys, T* shared) {
  constexpr int kChunks = kHeadDim / kChunkElements;
  for (int i = threadIdx.x; i < kTileKeys * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < num_keys;
    const T* from = valid ? tensor + (first + row) * kHeadDim + chunk * kChunkElements : tensor;
    CopyChunkAsync(shared + TileOffset(kHeadDim, row, chunk), from, valid);
  }
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) AttentionKernel(const Params p) {
  const PromptAttentionArgs& args = p.args;
  constexpr int kTileElements = kTileKeys * kHeadDim;
  T* ring = reinterpret_cast<T*>(DynamicSharedMemory());  // [kStages][K, V][tile]
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  // The blocks with the most keys come first, so that the short ones fill the end.
  const size_t first_query = static_cast<size_t>(gridDim.x - 1 - blockIdx.x) * kBlockQueries;
  const size_t head = blockIdx.y;
  const T* keys = static_cast<const T*>(args.keys) + head / p.group * args.head_stride;
  const T* values = static_cast<const T*>(args.values) + head / p.group * args.head_stride;
  const size_t last_query = min(first_query + kBlockQueries, args.num_queries) - 1;
  const size_t num_keys = args.first_position + last_query + 1;
  const int tiles = static_cast<int>((num_keys + kTileKeys - 1) / kTileKeys);
  const auto start = [&](int tile) {
    T* stage = ring + tile % kStages * 2 * kTileElements;
    StartTile<T, kHeadDim>(keys, static_cast<size_t>(tile) * kTileKeys, num_keys, stage);
    StartTile<T, kHeadDim>(values, static_cast<size_t>(tile) * kTileKeys, num_keys,
                           stage + kTileElements);
    CommitCopies();
  };
  start(0);
  WarpRows<T, kHeadDim> rows;
  const size_t warp_query = first_query + warp * 16;
  rows.LoadQueries(args, head, warp_query, lane);
  const int64_t visible = args.first_position + warp_query + AccumulatorRow(lane) + 1;
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      start(tile + 1);
    } else {
      CommitCopies();
    }
    WaitForCopies<1>();
    __syncthreads();
    const T* stage = ring + tile % kStages * 2 * kTileElements;
    rows.Attend(stage, stage + kTileElements, visible - static_cast<int64_t>(tile) * kTileKeys,
                p.scale, lane);
    __syncthreads();
  }
  WaitForCopies<0>();
  rows.Store(args, head, warp_query, lane);
}

}  // namespace

absl::Status PromptAttention(cudaStream_t stream, const PromptAttentionArgs& args) {
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  if (args.num_queries < 1 || args.num_query_heads > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("num_queries ", args.num_queries,
                                                   ": wanted at least 1, and num_query_heads ",
                                                   args.num_query_heads, " at most 65535"));
  }
  const size_t num_keys = args.first_position + args.num_queries;
  if (args.head_stride < num_keys * args.head_dim || args.head_stride % kChunkElements != 0) {
    return absl::InvalidArgumentError(absl::StrCat("head_stride ", args.head_stride,
                                                   ": wanted a multiple of 8, at least ",
                                                   num_keys * args.head_dim));
  }
  if (args.q_row_stride < args.num_query_heads * args.head_dim || args.q_row_stride % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("q_row_stride ", args.q_row_stride,
                                                   ": wanted an even number, at least ",
                                                   args.num_query_heads * args.head_dim));
  }
  if (args.lse != nullptr && args.lse_row_stride < args.num_queries) {
    return absl::InvalidArgumentError(absl::StrCat("lse_row_stride ", args.lse_row_stride,
                                                   ": wanted at least ", args.num_queries));
  }
  Params p = {};
  p.args = args;
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.scale = kLog2E / std::sqrt(static_cast<float>(args.head_dim));
  const dim3 grid((args.num_queries + kBlockQueries - 1) / kBlockQueries, args.num_query_heads);
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim, [&](auto head_dim) {
      return Launch(stream, grid, dim3(kThreads),
                    size_t{kStages} * 2 * kTileKeys * head_dim() * sizeof(T),
                    AttentionKernel<T, head_dim()>, p);
    });
  });
}

}  // namespace kvship::cuda
