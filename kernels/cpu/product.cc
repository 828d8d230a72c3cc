#include "kernels/product.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/product_tiles.h"

namespace kvship {
namespace {

// Rows of activations per task: their rounded bytes stay in the second-level cache beside a tile,
// and each pass over the weights is shared by this many rows.
constexpr size_t kPanelsPerTask = 8;
constexpr size_t kRowsPerTask = kPanelsPerTask * kPanelRows;
// Enough that the slowest thread's last task does not matter.
constexpr size_t kTasksPerThread = 8;

absl::Status CheckShapes(const TensorView& x, const ProductWeights& weights, const TensorView& y) {
  if (x.rank != 2 || y.rank != 2 || x.dims[1] != weights.cols || y.dims[1] != weights.rows ||
      x.dims[0] != y.dims[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat("product: x [", x.dims[0], ", ", x.dims[1], "], y [", y.dims[0], ", ",
                     y.dims[1], "], wanted x [M, ", weights.cols, "], y [M, ", weights.rows, "]"));
  }
  return absl::OkStatus();
}

constexpr size_t RowTasks(size_t num_rows) { return (num_rows + kRowsPerTask - 1) / kRowsPerTask; }

// Calls pack(task, x, num_rows) for the rows of each task.
template <class Pack>
void PackRows(Backend& backend, const TensorView& x, const Pack& pack) {
  backend.threads().ParallelFor(RowTasks(x.dims[0]), [&](size_t task) {
    const size_t row = task * kRowsPerTask;
    pack(task, x.f32(row), std::min(kRowsPerTask, x.dims[0] - row));
  });
}

// All of x in panels for word tiles, in the backend's scratch memory.
const float* WordsOfAll(Backend& backend, const TensorView& x, TileLayout layout) {
  const size_t cols = x.dims[1], tasks = RowTasks(x.dims[0]);
  const size_t task_words = kRowsPerTask / kWordPanelRows * WordPanelSize(WordsOf(layout, cols));
  auto* const words = reinterpret_cast<float*>(backend.Scratch(tasks * task_words * sizeof(float)));
  const auto panels = layout == TileLayout::kFloats ? FloatPanels : Bf16Panels;
  PackRows(backend, x, [&](size_t task, const float* rows, size_t num_rows) {
    panels(rows, x.strides[0], num_rows, cols, words + task * task_words);
  });
  return words;
}

// The same for byte tiles.
RoundedRows RoundAll(Backend& backend, const TensorView& x) {
  const size_t cols = x.dims[1], tasks = RowTasks(x.dims[0]);
  const size_t task_bytes = kPanelsPerTask * RoundedPanelBytes(cols);
  const size_t task_scales = kPanelsPerTask * RoundedPanelScales(cols);
  std::byte* const memory = backend.Scratch(tasks * (task_bytes + task_scales * sizeof(float)));
  const RoundedRows rounded{reinterpret_cast<int8_t*>(memory),
                            reinterpret_cast<float*>(memory + tasks * task_bytes)};
  PackRows(backend, x, [&](size_t task, const float* rows, size_t num_rows) {
    RoundPanels(rows, x.strides[0], num_rows, cols,
                {rounded.bytes + task * task_bytes, rounded.scales + task * task_scales});
  });
  return rounded;
}

}  // namespace

absl::Status Product(Backend& backend, TensorView x, const ProductWeights& weights, TensorView y,
                     bool accumulate) {
  if (absl::Status status = CheckShapes(x, weights, y); !status.ok()) return status;
  const auto layout = static_cast<TileLayout>(weights.layout);
  const size_t num_rows = x.dims[0];
  const size_t num_tiles = (weights.rows + kTileRows - 1) / kTileRows;
  const size_t row_tasks = RowTasks(num_rows);
  if (row_tasks == 0) return absl::OkStatus();
  const size_t wanted = kTasksPerThread * backend.threads().num_threads();
  const size_t splits =
      std::clamp<size_t>((wanted + row_tasks - 1) / row_tasks, 1, std::max<size_t>(num_tiles, 1));
  const bool of_bytes = IsOfBytes(layout);
  const RoundedRows rounded = of_bytes ? RoundAll(backend, x) : RoundedRows{nullptr, nullptr};
  const float* const words = of_bytes ? nullptr : WordsOfAll(backend, x, layout);

  backend.threads().ParallelFor(row_tasks * splits, [&](size_t task) {
    const size_t row = task / splits * kRowsPerTask;
    const size_t begin = task % splits * num_tiles / splits;
    const size_t end = (task % splits + 1) * num_tiles / splits;
    TileProductArgs args;
    args.layout = layout;
    args.num_rows = std::min(kRowsPerTask, num_rows - row);
    args.cols = weights.cols;
    args.tiles = weights.memory.data() + begin * TileBytes(layout, weights.cols);
    args.weight_rows = std::min(end * kTileRows, weights.rows) - begin * kTileRows;
    args.y = y.f32(row) + begin * kTileRows;
    args.y_stride = y.strides[0];
    args.accumulate = accumulate;
    if (of_bytes) {
      const size_t panel = row / kPanelRows;
      args.rounded = {rounded.bytes + panel * RoundedPanelBytes(args.cols),
                      rounded.scales + panel * RoundedPanelScales(args.cols)};
      return ByteTileProduct(args);
    }
    args.words = words + row / kWordPanelRows * WordPanelSize(WordsOf(layout, args.cols));
    layout == TileLayout::kFloats ? FloatTileProduct(args) : Bf16TileProduct(args);
  });
  return absl::OkStatus();
}

}  // namespace kvship
