// CRC32C (Castagnoli) of byte ranges, by ISA-L. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvship {

// The checksum of `bytes`, or of a longer range continued from the `crc` of its beginning.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t crc = 0);

}  // namespace kvship
