#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <cassert>

#include "base/crc32c_polynomial.h"

namespace kvship {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t crc) {
  // ISA-L takes an int for the length and a pointer to non-const, and neither inverts at the start
  // nor at the end.
  constexpr size_t kMostBytes = size_t{1} << 30;
  crc = ~crc;
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), kMostBytes);
    crc = crc32_iscsi(
        const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data())),
        static_cast<int>(n), crc);
    bytes = bytes.subspan(n);
  }
  return ~crc;
}

uint32_t Crc32cOfTiles(std::span<const uint32_t> remainders, size_t num_bytes) {
  assert(remainders.size() == NumCrc32cTiles(num_bytes));
  constexpr uint32_t kTile = PowerOfX(8 * kCrc32cTileBytes);
  uint32_t remainder = 0;
  for (const uint32_t tile : remainders) remainder = MultiplyPolynomials(remainder, kTile) ^ tile;
  // The inversion at the start is one of the first 32 bits, the other one of the remainder.
  return ~(remainder ^ MultiplyPolynomials(~uint32_t{0}, PowerOfX(8 * num_bytes)));
}

}  // namespace kvship
