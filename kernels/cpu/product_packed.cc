#include <algorithm>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/product_tiles.h"
#include "kernels/cpu/weight_stack.h"
#include "kernels/product.h"

namespace kvship {
namespace {

// Weights per task at least: some microseconds of work, against a fraction of one to hand a task
// out.
constexpr size_t kWeightsPerTask = 131072;
// And no more tasks than even the threads out: reading fetches ahead, at the end of a task in vain.
constexpr size_t kTasksPerThread = 8;

// From this many rows of activations on, weights are unpacked a tile at a time: the shuffling is
// paid once for all rows. Both ways sum in the same order.
constexpr size_t kTileFrom = 6;

// How a matrix is multiplied.
enum class Way { kFloats, kBf16, kBytes, kTiles };

Way ChooseWay(const WeightView& weights, Arithmetic arithmetic, size_t num_rows) {
  if (arithmetic == Arithmetic::kFloat32) return Way::kFloats;
  if (weights.format == WeightFormat::kBf16 && HasBf16Pairs()) return Way::kBf16;
  if (!IsQuantized(weights.format) || !HasByteProducts()) return Way::kFloats;
  return num_rows >= kTileFrom ? Way::kTiles : Way::kBytes;
}

// Activations rounded for the ways that are wanted.
struct Rounded {
  Array<bf16> bf16s;
  Array<int8_t> bytes, panel_bytes;
  Array<float> scales, panel_scales;

  void Bf16(const TensorView& x) {
    const size_t rows = x.dims[0], cols = x.dims[1];
    bf16s = Array<bf16>(rows * cols);
    for (size_t m = 0; m < rows; ++m) RoundToBf16(x.f32(m), cols, bf16s.data() + m * cols);
  }
  void Rows(const TensorView& x) {
    const size_t rows = x.dims[0], cols = x.dims[1];
    bytes = Array<int8_t>(rows * 2 * cols);
    scales = Array<float>(rows * cols / kByteRun * kRoundedRunScales);
    for (size_t m = 0; m < rows; ++m) {
      RoundRow(x.f32(m), cols, bytes.data() + m * 2 * cols,
               scales.data() + m * cols / kByteRun * kRoundedRunScales);
    }
  }
  void Panels(const TensorView& x) {
    const size_t cols = x.dims[1], panels = (x.dims[0] + kPanelRows - 1) / kPanelRows;
    panel_bytes = Array<int8_t>(panels * RoundedPanelBytes(cols));
    panel_scales = Array<float>(panels * RoundedPanelScales(cols));
    RoundPanels(x.f32(), x.strides[0], x.dims[0], cols, {panel_bytes.data(), panel_scales.data()});
  }
};

void MultiplyTiles(const PackedRowsArgs& rows, Rounded& rounded) {
  const WeightView& weights = *rows.weights;
  const TileLayout layout = ByteLayoutOf(weights.format);
  Array<std::byte> tile(TileBytes(layout, weights.cols));
  TileProductArgs args;
  args.layout = layout;
  args.num_rows = rows.num_rows;
  args.cols = weights.cols;
  args.tiles = tile.data();
  args.y_stride = rows.y_stride;
  args.accumulate = rows.accumulate;
  args.rounded = {rounded.panel_bytes.data(), rounded.panel_scales.data()};
  for (size_t n = 0; n < rows.count; n += kTileRows) {
    args.weight_rows = std::min(kTileRows, rows.count - n);
    args.y = rows.y + n;
    UnpackTile(layout, {&weights, 1}, rows.begin + n, args.weight_rows, tile.data());
    ByteTileProduct(args);
  }
}

}  // namespace

absl::Status ProductPacked(Backend& backend, TensorView x, std::span<const WeightView> stacked,
                           Arithmetic arithmetic, TensorView y, bool accumulate) {
  RETURN_IF_ERROR(CheckStack(stacked));
  const size_t rows = RowsOf(stacked), cols = stacked[0].cols;
  if (x.rank != 2 || y.rank != 2 || x.dims[1] != cols || y.dims[1] != rows ||
      x.dims[0] != y.dims[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat("product: x [", x.dims[0], ", ", x.dims[1], "], y [", y.dims[0], ", ",
                     y.dims[1], "], wanted x [M, ", cols, "], y [M, ", rows, "]"));
  }
  Rounded rounded;
  const auto needs = [&](Way way) {
    return std::any_of(stacked.begin(), stacked.end(), [&](const WeightView& weights) {
      return ChooseWay(weights, arithmetic, x.dims[0]) == way;
    });
  };
  if (needs(Way::kBf16)) rounded.Bf16(x);
  if (needs(Way::kBytes)) rounded.Rows(x);
  if (needs(Way::kTiles)) rounded.Panels(x);

  const size_t threads = backend.threads().num_threads();
  size_t wanted = std::clamp<size_t>(rows * cols / kWeightsPerTask, 1, kTasksPerThread * threads);
  if (wanted > threads) wanted -= wanted % threads;
  // Whole tiles, so that only a matrix's last rows are an incomplete one.
  const size_t tiles = (rows + kTileRows - 1) / kTileRows;
  const size_t rows_per_task = std::max<size_t>((tiles + wanted - 1) / wanted, 1) * kTileRows;
  const size_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
  backend.threads().ParallelFor(num_tasks, [&](size_t task) {
    size_t begin = task * rows_per_task;
    const size_t end = std::min(rows, begin + rows_per_task);
    while (begin < end) {
      const StackRow first = FindRow(stacked, begin);
      PackedRowsArgs args;
      args.weights = first.weights;
      args.begin = first.row;
      args.count = std::min(end - begin, first.weights->rows - first.row);
      args.x = x.f32();
      args.x_stride = x.strides[0];
      args.x_bf16 = rounded.bf16s.data();
      args.x_bytes = rounded.bytes.data();
      args.x_scales = rounded.scales.data();
      args.num_rows = x.dims[0];
      args.y = y.f32() + begin;
      args.y_stride = y.strides[0];
      args.accumulate = accumulate;
      switch (ChooseWay(*first.weights, arithmetic, x.dims[0])) {
        case Way::kFloats: PackedRowsFloat(args); break;
        case Way::kBf16: PackedRowsBf16(args); break;
        case Way::kBytes: PackedRowsBytes(args); break;
        case Way::kTiles: MultiplyTiles(args, rounded); break;
      }
      begin += args.count;
    }
  });
  return absl::OkStatus();
}

}  // namespace kvship
