// What the passes of the window's queries over the keys share: tiles of keys in shared memory, a
// query head's queries in registers, the products of the two, and what may be asked. For
// window_votes.cu and window_sums.cu.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {

inline constexpr int kTileTokens = 64;
inline constexpr int kTileStages = 4;  // two blocks on a multiprocessor keep 96 KiB of keys coming
inline constexpr int kRowTiles = kTileTokens / 16;
inline constexpr int kMaxHeadsPerBlock = 8;

// Warps of a block are (row group, query head): this many row groups for a KV head's query heads,
// for up to 8 warps.
constexpr int RowGroups(int group) { return group <= 2 ? 4 : group <= 4 ? 2 : 1; }

// One KV head's tile: keys [kTileTokens, kHeadDim], rows past the last key as zeros.
template <class T, int kHeadDim>
__device__ void StartTile(const T* keys, size_t num_keys, int tile, T* shared) {
  constexpr int kChunks = kHeadDim / kChunkElements;
  const size_t first = static_cast<size_t>(tile) * kTileTokens;
  for (int i = threadIdx.x; i < kTileTokens * kChunks; i += blockDim.x) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < num_keys;
    const T* from = valid ? keys + (first + row) * kHeadDim + chunk * kChunkElements : keys;
    CopyChunkAsync(shared + TileOffset(kHeadDim, row, chunk), from, valid);
  }
}

// Takes one KV head's tiles `begin` to `end` through `ring`, of kTileStages tiles: calls load()
// while the first are on their way, and use(tile, rows) with each that has arrived. Every thread of
// the block calls it, and none has left the last tile when it returns.
template <class T, int kHeadDim, class Load, class Use>
__device__ void StreamTiles(const T* keys, size_t num_keys, int begin, int end, T* ring, Load load,
                            Use use) {
  constexpr int kTileElements = kTileTokens * kHeadDim;
#pragma unroll
  for (int stage = 0; stage < kTileStages - 1; ++stage) {
    if (begin + stage < end) {
      StartTile<T, kHeadDim>(keys, num_keys, begin + stage, ring + stage * kTileElements);
    }
    CommitCopies();
  }
  load();
  for (int tile = begin; tile < end; ++tile) {
    WaitForCopies<kTileStages - 2>();
    __syncthreads();  // the tile has arrived, and everyone has left the one before it
    const int next = tile + kTileStages - 1;
    if (next < end) {
      StartTile<T, kHeadDim>(keys, num_keys, next,
                             ring + (next - begin) % kTileStages * kTileElements);
    }
    CommitCopies();
    use(tile, ring + (tile - begin) % kTileStages * kTileElements);
  }
  WaitForCopies<0>();
}

// One query head's queries [window, D], rows `row_stride` elements apart, as the operand B; columns
// past the window as zeros.
template <class T, int kHeadDim, int kColumnTiles>
struct WindowQueries {
  uint32_t b[kHeadDim / 16][kColumnTiles][2];

  __device__ void Load(const T* q, size_t row_stride, int window, int lane) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      const int row = j * 8 + AccumulatorRow(lane);
      const uint32_t* pairs = reinterpret_cast<const uint32_t*>(q + row * row_stride);
#pragma unroll
      for (int s = 0; s < kHeadDim / 16; ++s) {
        b[s][j][0] = row < window ? pairs[s * 8 + (lane & 3)] : 0;
        b[s][j][1] = row < window ? pairs[s * 8 + 4 + (lane & 3)] : 0;
      }
    }
  }

  // Adds the products with 16 rows of a tile to c, whose rows are keys and columns queries.
  __device__ void Multiply(const T* rows, int lane, float (&c)[kColumnTiles][4]) const {
    const MatrixRow from = DownThenRight(lane);
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
      uint32_t a[4];
      LoadMatrices(a, rows + TileOffset(kHeadDim, from.row, s * 2 + from.chunk));
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) MultiplyAdd<T>(c[j], a, b[s][j][0], b[s][j][1]);
    }
  }
};

// Of a pass' heads, window and keys. InvalidArgument naming what is wrong.
template <class Args>
absl::Status CheckWindowPass(const Args& args) {
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  const size_t window = args.window, num_keys = args.num_keys, stride = args.key_head_stride;
  if (window < 1 || window > kMostWindowQueries) {
    return absl::InvalidArgumentError(
        absl::StrCat("window ", window, ": wanted 1 to ", kMostWindowQueries));
  }
  if (num_keys < 1 || num_keys > (size_t{1} << 30)) {
    return absl::InvalidArgumentError(absl::StrCat("num_keys ", num_keys, ": wanted 1 to 2^30"));
  }
  const size_t least_stride = num_keys * args.head_dim;
  if (stride < least_stride || stride % kChunkElements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "key_head_stride ", stride, ": wanted a multiple of 8, at least ", least_stride));
  }
  return absl::OkStatus();
}

// launch(element, head_dim, column_tiles) with a pass' types: an element, and two constants.
template <class Args, class LaunchPass>
absl::Status WithWindowPass(const Args& args, LaunchPass launch) {
  return WithElementType(args.dtype, [&](auto element) {
    return WithHeadDim(args.head_dim, [&](auto head_dim) {
      if (args.window <= 16) return launch(element, head_dim, std::integral_constant<int, 2>());
      if (args.window <= 32) return launch(element, head_dim, std::integral_constant<int, 4>());
      return launch(element, head_dim, std::integral_constant<int, 8>());
    });
  });
}

}  // namespace kvship::cuda
