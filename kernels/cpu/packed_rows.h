// Products of a few rows of activations with rows of one packed matrix, the part of ProductPacked
// that one thread does at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/float16.h"
#include "kernels/weight_format.h"

namespace kvship {

// y[m, n] (+)= x[m] . W[begin + n], n < count. x is given as floats or rounded, to bf16 or to
// 16-bit integers:
//
//   bf16   [num_rows][cols]
//   bytes  [num_rows][cols / 32][kRoundedRunBytes]
//   scales [num_rows][cols / 32][kRoundedRunScales] f32
struct PackedRowsArgs {
  const WeightView* weights;
  size_t begin;
  size_t count;
  const float* x;
  size_t x_stride;
  const bf16* x_bf16;
  const int8_t* x_bytes;
  const float* x_scales;
  size_t num_rows;
  float* y;
  size_t y_stride;
  bool accumulate;
};
void PackedRowsFloat(const PackedRowsArgs& args);
// On activations in bf16; for bf16.
void PackedRowsBf16(const PackedRowsArgs& args);
// On activations in 16-bit integers; for quantized formats.
void PackedRowsBytes(const PackedRowsArgs& args);

// Rounds a row of activations to the nearest, ties to even; subnormals may become zero.
void RoundToBf16(const float* x, size_t cols, bf16* out);
// To 16-bit integers; cols is a multiple of 32.
void RoundRow(const float* x, size_t cols, int8_t* bytes, float* scales);

// Whether this processor has products of bf16: these, and tiles of pairs.
bool HasBf16Pairs();

// Whether this processor has products with weight bytes: these two, and byte tiles.
bool HasByteProducts();

}  // namespace kvship
