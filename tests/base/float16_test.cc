#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace kvship {
namespace {

TEST(F16, EveryValueComesBackThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16 half{static_cast<uint16_t>(bits)};
    const float value = ToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToF16(value))));
    } else {
      EXPECT_EQ(ToF16(value).bits, bits) << value;
    }
  }
}

TEST(F16, HalfwayRoundsToEven) {
  EXPECT_EQ(ToF16(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(ToF16(1.0f + 3 * 0x1p-11f).bits, 0x3c02);
  EXPECT_EQ(ToF16(65520.0f).bits, 0x7c00) << "rounds to infinity";
  EXPECT_EQ(ToF16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(ToF16(0x1p-25f).bits, 0) << "half of the smallest subnormal";
}

TEST(Bf16, EveryValueComesBackThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16 value{static_cast<uint16_t>(bits)};
    if (!std::isnan(ToFloat(value))) {
      EXPECT_EQ(ToBf16(ToFloat(value)).bits, bits);
    }
  }
  EXPECT_TRUE(std::isnan(ToFloat(ToBf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Bf16, HalfwayRoundsToEven) {
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f).bits, 0x3f80);
  EXPECT_EQ(ToBf16(1.0f + 3 * 0x1p-8f).bits, 0x3f82);
}

}  // namespace
}  // namespace kvship
