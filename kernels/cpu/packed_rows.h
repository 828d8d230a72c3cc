// Products of a few rows of activations with rows of one packed matrix, the part of ProductPacked
// that one thread does at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weight_format.h"

namespace kvship {

// y[m, n] (+)= x[m] . W[begin + n], n < count. x is given as floats or rounded:
//
//   bytes  [num_rows][cols / 32][kRoundedRunBytes]
//   scales [num_rows][cols / 32][kRoundedRunScales] f32
struct PackedRowsArgs {
  const WeightView* weights;
  size_t begin;
  size_t count;
  const float* x;
  size_t x_stride;
  const int8_t* x_bytes;
  const float* x_scales;
  size_t num_rows;
  float* y;
  size_t y_stride;
  bool accumulate;
};
void PackedRowsFloat(const PackedRowsArgs& args);
// On rounded activations; for quantized formats.
void PackedRowsBytes(const PackedRowsArgs& args);

// Rounds a row of activations; cols is a multiple of 32.
void RoundRow(const float* x, size_t cols, int8_t* bytes, float* scales);

// Whether this processor has products with weight bytes: these two, and byte tiles.
bool HasByteProducts();

}  // namespace kvship
