// Exact selection of the k best positions per row of scores, on the GPU: TopPositions() of
// kernels/scores.h for many rows at once. Errors: InvalidArgument if sizes, strides or number
// formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// Maps scores to unsigned integers in the same order: NaN is the smallest, and both zeros are
// equal.
constexpr uint32_t ScoreKey(uint32_t float_bits) {
  const uint32_t magnitude = float_bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0;
  if (magnitude == 0) return 0x80000000u;
  return float_bits & 0x80000000u ? ~float_bits : float_bits | 0x80000000u;
}

// The radix passes look at 11, 11 and 10 bits of the key, from the top.
inline constexpr int kRadixPasses = 3;
inline constexpr int kRadixBins = 2048;
constexpr int RadixShift(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }
constexpr uint32_t RadixDigit(uint32_t key, int pass) {
  return key >> RadixShift(pass) & (pass == 2 ? 0x3ffu : 0x7ffu);
}
// The bits above the digit of `pass`.
constexpr uint32_t RadixPrefix(uint32_t key, int pass) {
  return pass == 0 ? 0 : key & ~0u << RadixShift(pass - 1);
}

// positions[offsets[r] .. offsets[r + 1]) = the positions of row r's k largest scores, ascending,
// with ties at the boundary to the smallest position and NaN as the smallest score; then the
// num_appended positions n, n + 1, ... that are always kept. k is what offsets leave beside these,
// at most n. Bit-identical to the CPU's result. Memory: device memory; `workspace` of
// TopPositionsWorkspaceBytes(), filled with zeros before the first of the calls that share it, all
// with one number of rows: each leaves its counters at zero for the next.
struct TopPositionsArgs {
  const float* scores = nullptr;     // [R, n]
  const int32_t* offsets = nullptr;  // [R + 1]
  int32_t* positions = nullptr;      // [offsets[R]]
  void* workspace = nullptr;
  size_t num_rows = 0;           // R
  size_t num_scores = 0;         // n
  size_t scores_row_stride = 0;  // elements
  size_t num_appended = 0;
};
size_t TopPositionsWorkspaceBytes(size_t num_rows, size_t num_scores);
absl::Status TopPositions(cudaStream_t stream, const TopPositionsArgs& args);

}  // namespace kvship::cuda
