// Products with unpacked weights, one block of activation rows and one range of weight tiles at a
// time; the launcher in product.cc gives each thread its own. A tile is kTileRows weight rows with
// the columns interleaved for broadcast products:
//
//   byte tile, per run of 32 columns:  bytes  [8][kTileRows][4]  columns 4s .. 4s + 3 of each row
//                                      scales [kTileRows] f32, minimums [kTileRows] f32
//   float tile:                        [cols][kTileRows] f32
//
// Weight = scale * byte + minimum. Missing rows of the last tile are zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/quantized_blocks.h"

namespace kvship {

inline constexpr size_t kTileRows = 32;
inline constexpr size_t kByteTileRunBytes = kTileRows * (kByteRun + 2 * sizeof(float));

constexpr size_t ByteTileBytes(size_t cols) { return cols / kByteRun * kByteTileRunBytes; }
constexpr size_t FloatTileBytes(size_t cols) { return kTileRows * cols * sizeof(float); }

// What ProductWeights::layout holds.
enum class TileLayout : uint32_t { kFloats, kBytes };

constexpr size_t TileBytes(TileLayout layout, size_t cols) {
  return layout == TileLayout::kBytes ? ByteTileBytes(cols) : FloatTileBytes(cols);
}

// Rows of activations that one pass over a tile serves: half of the registers' worth of sums.
inline constexpr size_t kPanelRows = 6;

// Activations rounded to 16 bits, in panels of kPanelRows rows:
//
//   bytes  [panels][runs][kPanelRows][kRoundedRunBytes]
//   scales [panels][runs][kPanelRows][2] f32: the step, and the step times the sum of the integers
struct RoundedRows {
  int8_t* bytes;
  float* scales;
};
void RoundPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols,
                 const RoundedRows& rounded);
constexpr size_t RoundedPanelBytes(size_t cols) { return kPanelRows * 2 * cols; }
constexpr size_t RoundedPanelScales(size_t cols) { return kPanelRows * cols / kByteRun * 2; }

// y[rows, weight_rows] (+)= x[rows, cols] W^T for `num_tiles` tiles one after the other; the last
// may have fewer than kTileRows rows of weight_rows left.
struct TileProductArgs {
  const float* x;
  size_t x_stride;
  size_t num_rows;
  size_t cols;
  const std::byte* tiles;
  size_t weight_rows;
  float* y;
  size_t y_stride;
  bool accumulate;
  RoundedRows rounded;  // byte tiles only: x, rounded by RoundPanels
};
void ByteTileProduct(const TileProductArgs& args);
void FloatTileProduct(const TileProductArgs& args);

// Writes eight rows of `weights`, which have a byte form, into rows [tile_row, tile_row + 8) of a
// tile. Only where HasByteProducts().
void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile);

// The same for any rows [begin, begin + count) of `stacked` matrices, count up to kTileRows; byte
// tiles are for formats with a byte form. Missing rows become zeros.
void UnpackTile(TileLayout layout, std::span<const WeightView> stacked, size_t begin, size_t count,
                std::byte* tile);

}  // namespace kvship
