#include <gtest/gtest.h>

#include <cstring>
#include <string>

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

TEST(Sha256, GivesTheDigestOfTheStandard) {
  Sha256 sha;
  sha.Update(BytesOf("a"));
  sha.Update(BytesOf("bc"));
  EXPECT_EQ(HexString(sha.Finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace kvship
