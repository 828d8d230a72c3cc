#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/sha256.h"

namespace kvship {
namespace {

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Crc32c, GivesTheCheckValueOfTheCatalogue) {
  EXPECT_EQ(Crc32c(BytesOf("123456789")), 0xe3069283u);
}

TEST(Crc32c, ContinuesFromThePartBefore) {
  EXPECT_EQ(Crc32c(BytesOf("56789"), Crc32c(BytesOf("1234"))), 0xe3069283u);
}

TEST(Crc32c, OfTilesIsThatOfTheWhole) {
  // A remainder is a checksum without its inversions: that of the bytes after 0 bits alone.
  const auto remainder = [](std::span<const std::byte> tile) { return ~Crc32c(tile, ~0u); };
  for (size_t size : {size_t{1}, size_t{1000}, kCrc32cTileBytes, 2 * kCrc32cTileBytes + 77}) {
    std::string text;
    for (size_t i = 0; i < size; ++i) text.push_back(static_cast<char>(i * i / 7));
    const std::span<const std::byte> bytes = BytesOf(text);
    std::vector<uint32_t> remainders;
    size_t end = size - (NumCrc32cTiles(size) - 1) * kCrc32cTileBytes;
    for (size_t begin = 0; begin < size; begin = std::exchange(end, end + kCrc32cTileBytes)) {
      remainders.push_back(remainder(bytes.subspan(begin, end - begin)));
    }
    EXPECT_EQ(Crc32cOfTiles(remainders, size), Crc32c(bytes)) << size;
  }
}

TEST(Sha256, GivesTheDigestOfTheStandard) {
  Sha256 sha;
  sha.Update(BytesOf("a"));
  sha.Update(BytesOf("bc"));
  EXPECT_EQ(HexString(sha.Finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace kvship
