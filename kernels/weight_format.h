// Memory formats of weight matrices: those of GGUF files, in which a row of `cols` weights is a run
// of blocks with their own scales, and plain floats. WeightView borrows the bytes, usually of a
// mapped file; nothing here owns memory.
//
// Block layouts: ggml-common.h of ggml-org/llama.cpp. docs/formats.md has them with worked
// examples.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvship {

enum class WeightFormat : uint8_t {
  kF32,
  kF16,
  kBf16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIQ4_NL,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS
};

struct WeightBlock {
  size_t num_weights;
  size_t num_bytes;
};

constexpr WeightBlock BlockOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32: return {1, 4};
    case WeightFormat::kF16: return {1, 2};
    case WeightFormat::kBf16: return {1, 2};
    case WeightFormat::kQ8_0: return {32, 34};
    case WeightFormat::kQ4_0: return {32, 18};
    case WeightFormat::kQ4_1: return {32, 20};
    case WeightFormat::kQ5_0: return {32, 22};
    case WeightFormat::kQ5_1: return {32, 24};
    case WeightFormat::kIQ4_NL: return {32, 18};
    case WeightFormat::kQ2_K: return {256, 84};
    case WeightFormat::kQ3_K: return {256, 110};
    case WeightFormat::kQ4_K: return {256, 144};
    case WeightFormat::kQ5_K: return {256, 176};
    case WeightFormat::kQ6_K: return {256, 210};
    case WeightFormat::kIQ4_XS: return {256, 136};
  }
  return {0, 0};
}

// Whether weights are small integers with scales rather than floats.
constexpr bool IsQuantized(WeightFormat format) { return BlockOf(format).num_weights > 1; }

const char* WeightFormatName(WeightFormat format);

// A matrix of weights [rows, cols], row after row; cols is a multiple of the format's block. A
// linear layer maps x [cols] to y [rows] = W x.
struct WeightView {
  const std::byte* data = nullptr;
  WeightFormat format = WeightFormat::kF32;
  size_t rows = 0;
  size_t cols = 0;

  size_t row_bytes() const {
    const WeightBlock block = BlockOf(format);
    return cols / block.num_weights * block.num_bytes;
  }
  size_t num_bytes() const { return rows * row_bytes(); }
};

}  // namespace kvship
