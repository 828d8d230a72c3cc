#include <cassert>
#include <cstring>

#include "base/float16.h"
#include "kernels/cpu/byte_run.h"
#include "kernels/product.h"

namespace kvship {
namespace {

template <class T>
void DequantizeFloats(const std::byte* row, size_t cols, float* out) {
  for (size_t i = 0; i < cols; ++i) {
    T value;
    std::memcpy(&value, row + i * sizeof(T), sizeof(T));
    out[i] = ToFloat(value);
  }
}

void DequantizeRuns(WeightFormat format, const std::byte* row, size_t cols, float* out) {
  ByteRun run;
  for (size_t begin = 0; begin < cols; begin += kByteRun, out += kByteRun) {
    LoadByteRun(format, row, begin / kByteRun, &run);
    for (size_t i = 0; i < kByteRun; ++i) {
      const size_t half = i / (kByteRun / 2);
      out[i] = run.scales[half] * static_cast<float>(run.bytes[i]) + run.minimums[half];
    }
  }
}

void DequantizeRow(WeightFormat format, const std::byte* row, size_t cols, float* out) {
  switch (format) {
    case WeightFormat::kF32: std::memcpy(out, row, cols * sizeof(float)); return;
    case WeightFormat::kF16: return DequantizeFloats<f16>(row, cols, out);
    case WeightFormat::kBf16: return DequantizeFloats<bf16>(row, cols, out);
    default: return DequantizeRuns(format, row, cols, out);
  }
}

}  // namespace

void Dequantize(const WeightView& weights, size_t begin_row, TensorView out) {
  assert(out.rank == 2 && out.dims[1] == weights.cols);
  assert(begin_row + out.dims[0] <= weights.rows);
  for (size_t i = 0; i < out.dims[0]; ++i) {
    DequantizeRow(weights.format, weights.data + (begin_row + i) * weights.row_bytes(),
                  weights.cols, out.f32(i));
  }
}

}  // namespace kvship
