// CRC32C (Castagnoli) of byte ranges, by ISA-L, and of ranges whose parts were divided elsewhere.
// Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvship {

// The checksum of `bytes`, or of a longer range continued from the `crc` of its beginning.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t crc = 0);

// A checksum is the remainder of a polynomial over GF(2), so that a range can be cut into tiles
// that are divided side by side: from its end, every kCrc32cTileBytes; the first tile may be
// shorter.
inline constexpr size_t kCrc32cTileBytes = size_t{64} << 10;
constexpr size_t NumCrc32cTiles(size_t num_bytes) {
  return (num_bytes + kCrc32cTileBytes - 1) / kCrc32cTileBytes;
}
// The checksum of a range of `num_bytes` from the remainders of its NumCrc32cTiles(num_bytes)
// tiles: those of the tile's bytes times x^32, without the inversions of a checksum.
uint32_t Crc32cOfTiles(std::span<const uint32_t> remainders, size_t num_bytes);

}  // namespace kvship
