#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "kernels/product.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/weights.h"

namespace kvship {
namespace {

std::vector<float> DequantizeBlock(WeightFormat format, const std::vector<std::byte>& block) {
  std::vector<float> out(BlockOf(format).num_weights);
  Dequantize({block.data(), format, 1, out.size()}, 0, TensorView(out.data(), {1, out.size()}));
  return out;
}

class EveryFormat : public testing::TestWithParam<WeightFormat> {};

INSTANTIATE_TEST_SUITE_P(Dequantize, EveryFormat, testing::ValuesIn(kAllFormats),
                         [](const auto& info) { return WeightFormatName(info.param); });

TEST_P(EveryFormat, IsTheNearestFloatOfTheFormula) {
  const RandomWeights weights(7, GetParam(), 5, 512);
  const std::vector<double> expected = SlowWeights(weights.view);
  std::vector<float> got(5 * 512);
  Dequantize(weights.view, 0, TensorView(got.data(), {5, 512}));
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], static_cast<float>(expected[i])) << i;
}

TEST_P(EveryFormat, StartsAtAnyRow) {
  const RandomWeights weights(8, GetParam(), 4, 256);
  std::vector<float> all(4 * 256), two(2 * 256);
  Dequantize(weights.view, 0, TensorView(all.data(), {4, 256}));
  Dequantize(weights.view, 1, TensorView(two.data(), {2, 256}));
  EXPECT_EQ(std::memcmp(two.data(), all.data() + 256, two.size() * sizeof(float)), 0);
}

// What gguf, the Python package of llama.cpp, makes of random blocks (tests/goldens).
TEST_P(EveryFormat, AgreesWithGguf) {
  std::ifstream file(KVSHIP_GOLDENS "/weight_blocks.json");
  const nlohmann::json formats = nlohmann::json::parse(file).at("formats");
  const std::string name = WeightFormatName(GetParam());
  ASSERT_EQ(formats.contains(name), IsQuantized(GetParam()));
  if (!IsQuantized(GetParam())) return;
  const std::string bytes = absl::HexStringToBytes(formats[name].at("bytes").get<std::string>());
  const auto expected = formats[name].at("weights").get<std::vector<float>>();
  const WeightView row = {reinterpret_cast<const std::byte*>(bytes.data()), GetParam(), 1, 256};
  ASSERT_EQ(bytes.size(), row.num_bytes());
  std::vector<float> got(256);
  Dequantize(row, 0, TensorView(got.data(), {1, 256}));
  EXPECT_EQ(got, expected);
}

std::vector<std::byte> Bytes(size_t count, std::initializer_list<std::pair<size_t, int>> set) {
  std::vector<std::byte> out(count);
  for (const auto& [at, value] : set) out[at] = static_cast<std::byte>(value);
  return out;
}

// 0x3800 is one half, 0xbc00 minus one.
TEST(Dequantize, Q8_0CountsByItsScale) {
  const auto got =
      DequantizeBlock(WeightFormat::kQ8_0, Bytes(34, {{1, 0x38}, {2, 127}, {33, 0x80}}));
  EXPECT_EQ(got[0], 63.5f);
  EXPECT_EQ(got[1], 0.0f);
  EXPECT_EQ(got[31], -64.0f);
}

TEST(Dequantize, Q4_0HoldsWeight16InTheHighNibbleOfTheFirstByte) {
  const auto got = DequantizeBlock(WeightFormat::kQ4_0, Bytes(18, {{1, 0x38}, {2, 0xf1}}));
  EXPECT_EQ(got[0], -3.5f);
  EXPECT_EQ(got[16], 3.5f);
  EXPECT_EQ(got[1], -4.0f);
}

TEST(Dequantize, Q4_1AddsItsMinimum) {
  const auto got =
      DequantizeBlock(WeightFormat::kQ4_1, Bytes(20, {{1, 0x38}, {3, 0xbc}, {4, 0xf1}}));
  EXPECT_EQ(got[0], -0.5f);
  EXPECT_EQ(got[16], 6.5f);
  EXPECT_EQ(got[31], -1.0f);
}

TEST(Dequantize, Q5_0TakesTheFifthBitOfWeight16FromTheThirdByteOfBits) {
  const auto got =
      DequantizeBlock(WeightFormat::kQ5_0, Bytes(22, {{1, 0x38}, {4, 0x01}, {6, 0x21}}));
  EXPECT_EQ(got[0], 0.5f * (1 - 16));
  EXPECT_EQ(got[16], 0.5f * (2 + 16 - 16));
}

TEST(Dequantize, Iq4XsLooksNibblesUp) {
  // Scales are 32 too large: run 1 has 0 | 3 << 4 = 48, its high bits in bits 2 and 3 of byte 2.
  const auto got =
      DequantizeBlock(WeightFormat::kIQ4_XS, Bytes(136, {{1, 0x38}, {2, 0x0c}, {8 + 16, 0xf8}}));
  EXPECT_EQ(got[32], 0.5f * 16 * 1);
  EXPECT_EQ(got[48], 0.5f * 16 * 113);
  EXPECT_EQ(got[0], 0.5f * -32 * -127);
}

TEST(Dequantize, Q2_KHasAScaleAndAMinimumForSixteenWeights) {
  const auto got = DequantizeBlock(WeightFormat::kQ2_K,
                                   Bytes(84, {{81, 0x38}, {83, 0x38}, {1, 0x25}, {16 + 16, 0x03}}));
  EXPECT_EQ(got[16], 0.5f * 5 * 3 - 0.5f * 2);
  EXPECT_EQ(got[17], -0.5f * 2);
  EXPECT_EQ(got[0], 0.0f);
}

TEST(Dequantize, Q3_KSubtractsFourWhereTheThirdBitIsNotSet) {
  // Scale 0 has its low bits in byte 96 and its high two in byte 104.
  const auto got =
      DequantizeBlock(WeightFormat::kQ3_K,
                      Bytes(110, {{109, 0x38}, {96, 0x01}, {104, 0x02}, {32, 0x03}, {0, 0x01}}));
  EXPECT_EQ(got[0], 0.5f * (1 + 32 - 32) * (3 + 4 - 4));
  EXPECT_EQ(got[1], 0.5f * (1 + 32 - 32) * -4);
}

TEST(Dequantize, Q4_KTakesTheTopBitsOfLateScalesFromTheEarlyOnes) {
  // Run 7: low bits of its scale in byte 4 + 11, the high two in the top of byte 4 + 3.
  const auto got = DequantizeBlock(
      WeightFormat::kQ4_K, Bytes(144, {{1, 0x38}, {4 + 11, 0x05}, {4 + 3, 0xc0}, {16 + 96, 0x30}}));
  EXPECT_EQ(got[224], 0.5f * (5 + 48) * 3);
  EXPECT_EQ(got[225], 0.0f);
  EXPECT_EQ(got[192], 0.0f) << "run 6 has scale 0";
}

TEST(Dequantize, Q6_KIsCentredOn32) {
  const auto got = DequantizeBlock(
      WeightFormat::kQ6_K, Bytes(210, {{209, 0x38}, {192, 2}, {193, 0xff}, {0, 1}, {128, 3}}));
  EXPECT_EQ(got[0], 0.5f * 2 * (1 + 48 - 32));
  EXPECT_EQ(got[1], 0.5f * 2 * -32);
  EXPECT_EQ(got[16], 0.5f * -1 * -32);
}

}  // namespace
}  // namespace kvship
