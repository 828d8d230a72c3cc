#include <algorithm>
#include <cstring>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/product_tiles.h"
#include "kernels/cpu/weight_stack.h"
#include "kernels/product.h"

namespace kvship {
namespace {

// Writes one row's run into its places in a byte tile.
void StoreRun(const ByteRun& run, size_t scales_per_run, size_t tile_row, std::byte* tile_run) {
  for (size_t s = 0; s < kByteRun / 4; ++s) {
    std::memcpy(tile_run + (s * kTileRows + tile_row) * 4, run.bytes + 4 * s, 4);
  }
  auto* scales = reinterpret_cast<float*>(tile_run + kTileRows * kByteRun) + tile_row;
  for (size_t h = 0; h < scales_per_run; ++h, scales += 2 * kTileRows) {
    scales[0] = run.scales[h];
    scales[kTileRows] = run.minimums[h];
  }
}

// Columns dequantized at a time on the way to a tile: a multiple of every block.
constexpr size_t kChunkCols = 256;

// Calls store(chunk, begin_col, cols) for a row's weights as floats, chunk by chunk.
template <class Store>
void ForEachChunk(const WeightView& weights, size_t row, const Store& store) {
  alignas(64) float chunk[kChunkCols];
  const size_t bytes_per_chunk =
      kChunkCols / BlockOf(weights.format).num_weights * BlockOf(weights.format).num_bytes;
  const std::byte* data = weights.data + row * weights.row_bytes();
  for (size_t begin = 0; begin < weights.cols; begin += kChunkCols, data += bytes_per_chunk) {
    const size_t cols = std::min(kChunkCols, weights.cols - begin);
    Dequantize({data, weights.format, 1, cols}, 0, TensorView(chunk, {1, cols}));
    store(chunk, begin, cols);
  }
}

void UnpackByteRow(size_t scales_per_run, const WeightView& weights, size_t row, size_t tile_row,
                   std::byte* tile) {
  const std::byte* data = weights.data + row * weights.row_bytes();
  ByteRun run;
  for (size_t i = 0; i < weights.cols / kByteRun; ++i) {
    LoadByteRun(weights.format, data, i, &run);
    StoreRun(run, scales_per_run, tile_row, tile + i * ByteTileRunBytes(scales_per_run));
  }
}

void UnpackBf16Row(const WeightView& weights, size_t row, size_t tile_row, std::byte* tile) {
  const auto* from = reinterpret_cast<const bf16*>(weights.data + row * weights.row_bytes());
  auto* to = reinterpret_cast<bf16*>(tile) + 2 * tile_row;
  for (size_t i = 0; i < weights.cols; ++i) to[i / 2 * 2 * kTileRows + i % 2] = from[i];
  if (weights.cols % 2 != 0) to[weights.cols / 2 * 2 * kTileRows + 1] = bf16{};
}

void UnpackFloatRow(const WeightView& weights, size_t row, size_t tile_row, float* tile) {
  ForEachChunk(weights, row, [&](const float* chunk, size_t begin, size_t cols) {
    float* out = tile + begin * kTileRows + tile_row;
    for (size_t i = 0; i < cols; ++i) out[i * kTileRows] = chunk[i];
  });
}

TileLayout ChooseLayout(std::span<const WeightView> stacked, Arithmetic arithmetic) {
  if (arithmetic != Arithmetic::kFast) return TileLayout::kFloats;
  const auto is_bf16 = [](const WeightView& w) { return w.format == WeightFormat::kBf16; };
  if (std::all_of(stacked.begin(), stacked.end(), is_bf16)) {
    return HasBf16Pairs() ? TileLayout::kBf16Pairs : TileLayout::kFloats;
  }
  if (!HasByteProducts()) return TileLayout::kFloats;
  TileLayout layout = TileLayout::kBytes;
  for (const WeightView& weights : stacked) {
    if (!IsQuantized(weights.format)) return TileLayout::kFloats;
    layout = std::max(layout, ByteLayoutOf(weights.format));
  }
  return layout;
}

}  // namespace

void UnpackTile(TileLayout layout, std::span<const WeightView> stacked, size_t begin, size_t count,
                std::byte* tile) {
  constexpr size_t kGroup = 8;
  const bool has_groups = HasByteProducts();
  if (count < kTileRows) std::memset(tile, 0, TileBytes(layout, stacked[0].cols));
  for (size_t i = 0; i < count;) {
    const StackRow row = FindRow(stacked, begin + i);
    const size_t together = std::min(count - i, row.weights->rows - row.row);
    const bool suits = IsQuantized(row.weights->format) || row.weights->cols % 16 == 0;
    if (has_groups && suits && i % kGroup == 0 && together >= kGroup) {
      UnpackGroup(layout, *row.weights, row.row, i, tile);
      i += kGroup;
      continue;
    }
    switch (layout) {
      case TileLayout::kFloats:
        UnpackFloatRow(*row.weights, row.row, i, reinterpret_cast<float*>(tile));
        break;
      case TileLayout::kBf16Pairs: UnpackBf16Row(*row.weights, row.row, i, tile); break;
      default: UnpackByteRow(ScalesPerRun(layout), *row.weights, row.row, i, tile);
    }
    ++i;
  }
}

absl::Status UnpackWeights(Backend& backend, std::span<const WeightView> stacked,
                           Arithmetic arithmetic, ProductWeights* out) {
  RETURN_IF_ERROR(CheckStack(stacked));
  const TileLayout layout = ChooseLayout(stacked, arithmetic);
  out->arithmetic = arithmetic;
  out->rows = RowsOf(stacked);
  out->cols = stacked[0].cols;
  out->layout = static_cast<uint32_t>(layout);
  const size_t tile_bytes = TileBytes(layout, out->cols);
  const size_t num_tiles = (out->rows + kTileRows - 1) / kTileRows;
  out->memory.GrowTo(num_tiles * tile_bytes);
  backend.threads().ParallelFor(num_tiles, [&](size_t task) {
    const size_t begin = task * kTileRows;
    UnpackTile(layout, stacked, begin, std::min(kTileRows, out->rows - begin),
               out->memory.data() + task * tile_bytes);
  });
  return absl::OkStatus();
}

}  // namespace kvship
