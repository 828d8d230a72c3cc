// The layout of a warpgroup's operands in shared memory, and their descriptors for the tensor
// cores. Plain arithmetic without CUDA, so that the CPU's tests can check it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvship::cuda {

// An operand in shared memory lies as panels of 64 columns (128 bytes), row after row; in each
// group of eight rows the 16-byte chunks of row r are in the places c ^ r (128-byte swizzle).
// Panels begin at multiples of 1024 bytes. `row` and `chunk` count from the operand's first
// element; the result is in elements.
inline constexpr size_t kPanelElements = 64;
inline constexpr size_t kPanelAlignment = 1024;  // bytes
constexpr size_t PanelOffset(size_t panel_rows, size_t row, size_t chunk) {
  const size_t panel = chunk / 8, within = chunk % 8;
  return (panel * panel_rows + row) * kPanelElements + (within ^ (row & 7)) * 8;
}

// The tensor cores' descriptor of 16 columns of a panel: `start` is the address of their first
// chunk in the panel's first row, before the swizzle. Source: PTX ISA, "Matrix Descriptor Format".
constexpr uint64_t OperandOf(uint32_t start) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 >> 4} << 32;  // from eight rows to the next eight
  constexpr uint64_t kUnused = uint64_t{1} << 16;              // of swizzled rows of one panel
  return kSwizzle128 | kGroupBytes | kUnused | (start & 0x3ffffu) >> 4;
}

// The descriptor of the 16 columns `num_bytes` further on, a multiple of 16: an addition to the
// lower word, which saves the instructions of OperandOf() between products.
constexpr uint64_t OperandAfter(uint64_t operand, uint32_t num_bytes) {
  return operand >> 32 << 32 | (static_cast<uint32_t>(operand) + (num_bytes >> 4));
}

}  // namespace kvship::cuda
