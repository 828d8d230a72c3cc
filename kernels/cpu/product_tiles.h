// Products with unpacked weights, one block of activation rows and one range of weight tiles at a
// time; the launcher in product.cc gives each thread its own. A tile is kTileRows weight rows with
// the columns interleaved for broadcast products:
//
//   byte tile, per run of 32 columns:  bytes [8][kTileRows][4]  columns 4s .. 4s + 3 of each row
//                                      [S][2][kTileRows] f32    scales, minimums
//   word tile:  floats                 [cols][kTileRows] f32
//               pairs of bf16          [cols / 2][kTileRows][2], a missing last one zero
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

// What ProductWeights::layout holds: words, or bytes with so many scales per run.
enum class TileLayout : uint32_t { kFloats, kBytes, kBytesInHalves, kBf16Pairs };

constexpr bool IsOfBytes(TileLayout layout) {
  return layout == TileLayout::kBytes || layout == TileLayout::kBytesInHalves;
}
constexpr size_t ScalesPerRun(TileLayout layout) { return static_cast<size_t>(layout); }

// Words per row of a word tile.
constexpr size_t WordsOf(TileLayout layout, size_t cols) {
  return layout == TileLayout::kFloats ? cols : (cols + 1) / 2;
}

// The smallest for a quantized format.
constexpr TileLayout ByteLayoutOf(WeightFormat format) {
  return ScalesPerRun(format) == 1 ? TileLayout::kBytes : TileLayout::kBytesInHalves;
}

constexpr size_t ByteTileRunBytes(size_t scales_per_run) {
  return kTileRows * (kByteRun + scales_per_run * 2 * sizeof(float));
}
constexpr size_t TileBytes(TileLayout layout, size_t cols) {
  if (!IsOfBytes(layout)) return kTileRows * WordsOf(layout, cols) * sizeof(float);
  return cols / kByteRun * ByteTileRunBytes(ScalesPerRun(layout));
}

// Rows of activations that one pass over a byte tile serves: half of the registers' worth of sums.
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

// Activations for word tiles, as floats or rounded to pairs of bf16, in panels. A pass reads a
// cache line of each row at a time; rows as they lie in memory would share few of the cache's sets.
//
//   words  [panels][chunks][kWordPanelRows][kChunkWords]
inline constexpr size_t kWordPanelRows = 2 * kPanelRows, kChunkWords = 16;
constexpr size_t WordPanelSize(size_t num_words) {
  return (num_words + kChunkWords - 1) / kChunkWords * kWordPanelRows * kChunkWords;
}
void FloatPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols, float* words);
void Bf16Panels(const float* x, size_t x_stride, size_t num_rows, size_t cols, float* words);

// y[rows, weight_rows] (+)= x[rows, cols] W^T for `num_tiles` tiles one after the other; the last
// may have fewer than kTileRows rows of weight_rows left.
struct TileProductArgs {
  TileLayout layout;
  size_t num_rows;
  size_t cols;
  const std::byte* tiles;
  size_t weight_rows;
  float* y;
  size_t y_stride;
  bool accumulate;
  RoundedRows rounded;  // x for byte tiles
  const float* words;   // x for word tiles
};
void ByteTileProduct(const TileProductArgs& args);
void FloatTileProduct(const TileProductArgs& args);
void Bf16TileProduct(const TileProductArgs& args);

// Writes eight rows of `weights` into rows [tile_row, tile_row + 8) of a tile that has as many
// scales per run or more. Only where HasByteProducts(); columns of floats a multiple of 16.
void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile);

// The same for any rows [begin, begin + count) of `stacked` matrices, count up to kTileRows; byte
// tiles are for quantized formats with as many scales per run or fewer, pairs for bf16. Missing
// rows become zeros.
void UnpackTile(TileLayout layout, std::span<const WeightView> stacked, size_t begin, size_t count,
                std::byte* tile);

}  // namespace kvship
