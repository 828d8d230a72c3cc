// Reads operands of tensor cores from the emulated shared memory, by what names them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/kernels/cuda/emulation/block.h"

namespace kvship::emulation {

inline constexpr size_t kOperandColumns = 16;

// Where the hardware's 128-byte swizzle puts the 16-byte chunk at a shared address.
constexpr uint32_t Swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// Elements [first_row, first_row + rows) x kOperandColumns, column after column, of the 16-bit
// operand with 128-byte swizzle that a descriptor names. Source: PTX ISA, "Matrix Descriptor
// Format" and "Shared Memory Matrix Layout", K-major.
inline void ReadOperand(uint64_t descriptor, size_t first_row, size_t rows,
                        float (*value)(uint16_t), float* columns) {
  constexpr size_t kChunkElements = 8;
  constexpr uint32_t kRowBytes = 128, kChunkBytes = 16;
  constexpr uint64_t kSwizzle128 = 1;
  Require(descriptor >> 62 == kSwizzle128 && (descriptor >> 49 & 7) == 0,
          "an operand of another layout than 128-byte swizzle");
  const auto start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  Require((start >> 7 & 7) == 0, "an operand whose swizzle does not begin with its first row");
  const auto group_bytes = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  Block& block = Block::Current();
  for (size_t i = 0; i < rows; ++i) {
    const auto row = static_cast<uint32_t>(first_row + i);
    for (uint32_t chunk = 0; chunk < kOperandColumns / kChunkElements; ++chunk) {
      const uint32_t address =
          start + row / 8 * group_bytes + row % 8 * kRowBytes + chunk * kChunkBytes;
      const std::byte* bytes = block.AtSharedAddress(Swizzled(address), kChunkBytes);
      Require(block.IsPublished(bytes), "an operand that was not published to the tensor cores");
      for (size_t e = 0; e < kChunkElements; ++e) {
        columns[(chunk * kChunkElements + e) * rows + i] =
            value(reinterpret_cast<const uint16_t*>(bytes)[e]);
      }
    }
  }
}

}  // namespace kvship::emulation
