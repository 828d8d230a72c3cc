// What the passes of the window's queries over the keys share: tiles of keys in shared memory, a
// query head's queries in registers, and the products of the two. Device code, for window_votes.cu
// and window_sums.cu.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

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

// One query head's queries [window, D] as the operand B, columns past the window as zeros.
template <class T, int kHeadDim, int kColumnTiles>
struct WindowQueries {
  uint32_t b[kHeadDim / 16][kColumnTiles][2];

  __device__ void Load(const T* q, int window, int lane) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      const int row = j * 8 + AccumulatorRow(lane);
      const uint32_t* pairs = reinterpret_cast<const uint32_t*>(q + row * kHeadDim);
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

}  // namespace kvship::cuda
