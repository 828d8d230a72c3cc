// CRC32C (Castagnoli) of byte ranges, by ISA-L or from remainders of their tiles computed
// elsewhere. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvship {

// The checksum of `bytes` or, given the `crc` of the bytes before them, of the longer range.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t crc = 0);

// A checksum is the remainder of a polynomial over GF(2), so a range can be cut into tiles that are
// divided in parallel: every kCrc32cTileBytes from its end; the first tile may be shorter.
inline constexpr size_t kCrc32cTileBytes = size_t{64} << 10;
constexpr size_t NumCrc32cTiles(size_t num_bytes) {
  return (num_bytes + kCrc32cTileBytes - 1) / kCrc32cTileBytes;
}
// The checksum of a range of `num_bytes` from the remainders of its NumCrc32cTiles(num_bytes)
// tiles. A tile's remainder is that of its bytes times x^32, without the inversions of a checksum.
uint32_t Crc32cOfTiles(std::span<const uint32_t> remainders, size_t num_bytes);

}  // namespace kvship
