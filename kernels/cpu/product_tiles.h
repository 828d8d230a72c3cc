// Products with unpacked weights, one block of activation rows and one range of weight tiles at a
// time; the launcher in product.cc gives each thread its own. A tile is kTileRows weight rows with
// the columns interleaved for broadcast products:
//
//   byte tile, per run of 32 columns:  bytes [8][kTileRows][4]  columns 4s .. 4s + 3 of each row
//                                      [S][2][kTileRows] f32    scales, minimums
//   float tile:                        [cols][kTileRows] f32
//
// Weight = scale * byte + minimum; S is 1, or 2 where each half of a run has its own. Missing rows
// of the last tile are zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/byte_run.h"
#include "kernels/weight_blocks.h"

namespace kvship {

inline constexpr size_t kTileRows = 32;

// What ProductWeights::layout holds: floats, or bytes with so many scales per run.
enum class TileLayout : uint32_t { kFloats, kBytes, kBytesInHalves };

constexpr size_t ScalesPerRun(TileLayout layout) { return static_cast<size_t>(layout); }

// The smallest for a quantized format.
constexpr TileLayout ByteLayoutOf(WeightFormat format) {
  return ScalesPerRun(format) == 1 ? TileLayout::kBytes : TileLayout::kBytesInHalves;
}

constexpr size_t ByteTileRunBytes(size_t scales_per_run) {
  return kTileRows * (kByteRun + scales_per_run * 2 * sizeof(float));
}
constexpr size_t TileBytes(TileLayout layout, size_t cols) {
  if (layout == TileLayout::kFloats) return kTileRows * cols * sizeof(float);
  return cols / kByteRun * ByteTileRunBytes(ScalesPerRun(layout));
}

// Rows of activations that one pass over a tile serves: half of the registers' worth of sums.
inline constexpr size_t kPanelRows = 6;

// Activations rounded to 16 bits, in panels of kPanelRows rows:
//
//   bytes  [panels][runs][kPanelRows][kRoundedRunBytes]
//   scales [panels][runs][kPanelRows][kRoundedRunScales] f32
struct RoundedRows {
  int8_t* bytes;
  float* scales;
};
void RoundPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols,
                 const RoundedRows& rounded);
constexpr size_t RoundedPanelBytes(size_t cols) { return kPanelRows * 2 * cols; }
constexpr size_t RoundedPanelScales(size_t cols) {
  return kPanelRows * cols / kByteRun * kRoundedRunScales;
}

// y[rows, weight_rows] (+)= x[rows, cols] W^T for `num_tiles` tiles one after the other; the last
// may have fewer than kTileRows rows of weight_rows left.
struct TileProductArgs {
  TileLayout layout;
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

// Writes eight rows of `weights`, which are quantized, into rows [tile_row, tile_row + 8) of a tile
// that has as many scales per run or more. Only where HasByteProducts().
void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile);

// The same for any rows [begin, begin + count) of `stacked` matrices, count up to kTileRows; byte
// tiles are for quantized formats with as many scales per run or fewer. Missing rows become zeros.
void UnpackTile(TileLayout layout, std::span<const WeightView> stacked, size_t begin, size_t count,
                std::byte* tile);

}  // namespace kvship
