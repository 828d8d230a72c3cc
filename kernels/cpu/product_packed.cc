#include <algorithm>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/quantized_blocks.h"
#include "kernels/cpu/weight_stack.h"
#include "kernels/product.h"

namespace kvship {
namespace {

// Weights per task: some microseconds of work, against a fraction of one to hand a task out.
constexpr size_t kWeightsPerTask = 65536;

struct Rounded {
  Array<int8_t> bytes;
  Array<float> scales;
};

Rounded Round(const TensorView& x) {
  const size_t rows = x.dims[0], cols = x.dims[1];
  Rounded rounded{Array<int8_t>(rows * cols), Array<float>(rows * cols / kByteRun * 2)};
  for (size_t m = 0; m < rows; ++m) {
    RoundActivations(x.f32(m), cols, rounded.bytes.data() + m * cols,
                     rounded.scales.data() + m * cols / kByteRun * 2);
  }
  return rounded;
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
  const auto on_bytes = [&](const WeightView& weights) {
    return arithmetic == Arithmetic::kFast && LargestByte(weights.format) > 0 &&
           HasPackedRowsBytes();
  };
  Rounded rounded;
  if (std::any_of(stacked.begin(), stacked.end(), on_bytes)) rounded = Round(x);

  const size_t rows_per_task = std::max<size_t>(kWeightsPerTask / std::max<size_t>(cols, 1), 1);
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
      args.x_bytes = rounded.bytes.data();
      args.x_scales = rounded.scales.data();
      args.num_rows = x.dims[0];
      args.y = y.f32() + begin;
      args.y_stride = y.strides[0];
      args.accumulate = accumulate;
      if (on_bytes(*first.weights)) {
        PackedRowsBytes(args);
      } else {
        PackedRowsFloat(args);
      }
      begin += args.count;
    }
  });
  return absl::OkStatus();
}

}  // namespace kvship
