// What products with weight bytes are made of: runs of 32 weights in the form of weight_blocks.h,
// and runs of 32 activations rounded to integers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weight_format.h"

namespace kvship {

inline constexpr size_t kByteRun = 32;

struct ByteRun {
  uint8_t bytes[kByteRun];
  // Of the first 16 and of the last 16 weights, equal where a format has one for both.
  float scales[2];
  float minimums[2];
};

// Run `run` of a row of quantized weights, whose first byte is `row`.
void LoadByteRun(WeightFormat format, const std::byte* row, size_t run, ByteRun* out);

// A run of activations takes 16 bits for each: high bytes [32] and low bytes [32], int8, where the
// processor has VNNI, else [32] int16.
inline constexpr size_t kRoundedRunBytes = 2 * kByteRun;
// And these floats: the step, and the step times the sum of the run's integers, of its first 16 and
// of its last 16.
inline constexpr size_t kRoundedRunScales = 4;
// Which of them goes with minimum `half` of a run that has so many.
constexpr size_t RoundedSumAt(size_t scales_per_run, size_t half) {
  return scales_per_run == 1 ? 1 : 2 + half;
}

}  // namespace kvship
