#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

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

}  // namespace kvship
