#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/quantized_blocks.h"
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
  for (size_t r = 0; r < cols / kByteRun; ++r) {
    LoadByteRun(format, row, r, &run);
    for (size_t i = 0; i < kByteRun; ++i) {
      out[r * kByteRun + i] = run.scale * static_cast<float>(run.bytes[i]) + run.minimum;
    }
  }
}

// 256 weights: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, d. Each half
// of 128 weights is four rows of 32: rows 0 and 1 in the low nibbles of the half's 64 bytes, rows 2
// and 3 in the high nibbles; row j's high bits are bits 2j and 2j + 1 of the half's 32 bytes.
void DequantizeQ6_K(const std::byte* row, size_t cols, float* out) {
  for (size_t begin = 0; begin < cols; begin += 256, row += 210) {
    const float d = LoadF16(row + 208);
    for (size_t i = 0; i < 256; ++i) {
      const size_t half = i / 128, j = i % 128 / 32, lane = i % 32;
      const auto low =
          static_cast<uint32_t>(row[half * 64 + j % 2 * 32 + lane]) >> (j / 2 * 4) & 15;
      const auto high = static_cast<uint32_t>(row[128 + half * 32 + lane]) >> (2 * j) & 3;
      const auto scale = static_cast<int8_t>(row[192 + i / 16]);
      const int q = static_cast<int>(low | high << 4) - 32;
      out[begin + i] = d * static_cast<float>(scale) * static_cast<float>(q);
    }
  }
}

void DequantizeRow(WeightFormat format, const std::byte* row, size_t cols, float* out) {
  switch (format) {
    case WeightFormat::kF32: std::memcpy(out, row, cols * sizeof(float)); return;
    case WeightFormat::kF16: return DequantizeFloats<f16>(row, cols, out);
    case WeightFormat::kBf16: return DequantizeFloats<bf16>(row, cols, out);
    case WeightFormat::kQ6_K: return DequantizeQ6_K(row, cols, out);
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K: return DequantizeRuns(format, row, cols, out);
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
