#include <gtest/gtest.h>

#include <cstring>

#include "kernels/product.h"
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
