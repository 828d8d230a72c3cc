#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "base/buffer.h"
#include "kernels/attention.h"
#include "tests/kernels/attention_reference.h"

namespace kvship {
namespace {

constexpr PageFormat kFormats[] = {PageFormat::kF32, PageFormat::kF16, PageFormat::kBf16};

float RoundTo(PageFormat format, float x) {
  switch (format) {
    case PageFormat::kF32: return x;
    case PageFormat::kF16: return ToFloat(ToF16(x));
    case PageFormat::kBf16: return ToFloat(ToBf16(x));
    default: break;
  }
  return 0.0f;
}

TEST(Pages, GatheredTokensComeBackRoundedOnce) {
  for (const PageFormat format : kFormats) {
    for (const size_t head_dim : {16, 20, 64}) {
      const RandomTensor keys({100, head_dim}, 1), values({100, head_dim}, 2);
      std::vector<int32_t> positions;
      for (int32_t p = 97; p > 0; p -= 2) positions.push_back(p);  // 49: two pages
      Buffer pages(2 * PageBytes(format, head_dim));
      GatherPages(format, keys.view, values.view, positions, pages.data());
      for (size_t page = 0; page < 2; ++page) {
        const size_t on_page = std::min(kPageTokens, positions.size() - page * kPageTokens);
        RandomTensor k({on_page, head_dim}, 3), v({on_page, head_dim}, 4);
        ReadPage(format, pages.data() + page * PageBytes(format, head_dim), k.view, v.view);
        for (size_t t = 0; t < on_page; ++t) {
          const size_t position = static_cast<size_t>(positions[page * kPageTokens + t]);
          for (size_t i = 0; i < head_dim; ++i) {
            ASSERT_EQ(k.view.f32(t)[i], RoundTo(format, keys.view.f32(position)[i]));
            ASSERT_EQ(v.view.f32(t)[i], RoundTo(format, values.view.f32(position)[i]));
          }
        }
      }
    }
  }
}

TEST(Pages, TheLastPageIsPaddedWithZeros) {
  for (const PageFormat format : kFormats) {
    const RandomTensor rows({3, 16}, 1);
    const size_t half = PageValuesOffset(format, 16);
    Buffer page(PageBytes(format, 16));
    std::memset(page.data(), 0xff, page.num_bytes());
    const int32_t positions[] = {0, 1, 2};
    GatherPages(format, rows.view, rows.view, positions, page.data());
    const size_t used = 3 * 16 * PageElementBytes(format);
    for (size_t byte = used; byte < half; ++byte) {
      ASSERT_EQ(page.data()[byte], std::byte{0});
      ASSERT_EQ(page.data()[half + byte], std::byte{0});
    }
  }
}

TEST(Pages, ASlotIsWrittenAsAGatheredTokenIs) {
  for (const PageFormat format : kFormats) {
    const RandomTensor keys({kPageTokens, 32}, 1), values({kPageTokens, 32}, 2);
    Buffer gathered(PageBytes(format, 32)), written(PageBytes(format, 32));
    std::vector<int32_t> positions;
    for (size_t t = 0; t < kPageTokens; ++t) {
      positions.push_back(static_cast<int32_t>(t));
      WritePageSlot(format, 32, t, keys.view.f32(t), values.view.f32(t), written.data());
    }
    GatherPages(format, keys.view, values.view, positions, gathered.data());
    EXPECT_EQ(std::memcmp(gathered.data(), written.data(), gathered.num_bytes()), 0);
  }
}

// Halfway cases, subnormals, overflow and infinities, in vectors and in what is left of a row.
TEST(Pages, EdgesOfTheFormatsRoundAsScalarsDo) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float edges[] = {0.0f,     -0.0f,     1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f,
                         65519.0f, 65520.0f,  -65536.0f,       0x1p-24f,
                         0x1p-25f, 3e-8f,     6.1e-5f,         1.0f + 0x1p-8f,
                         3.4e38f,  kInfinity, -kInfinity,      1.0f + 3 * 0x1p-8f,
                         -1e-40f,  2.5e-7f,   -65519.0f};
  std::vector<float> row;
  for (size_t i = 0; i < 4 * std::size(edges); ++i) row.push_back(edges[i % std::size(edges)]);
  for (const PageFormat format : kFormats) {
    Buffer page(PageBytes(format, row.size()));
    WritePageSlot(format, row.size(), 0, row.data(), row.data(), page.data());
    RandomTensor keys({1, row.size()}, 1), values({1, row.size()}, 2);
    ReadPage(format, page.data(), keys.view, values.view);
    for (size_t i = 0; i < row.size(); ++i) {
      EXPECT_EQ(keys.data[i], RoundTo(format, row[i])) << row[i];
    }
  }
}

TEST(Pages, NanStaysNan) {
  const std::vector<float> row(32, std::numeric_limits<float>::quiet_NaN());
  for (const PageFormat format : kFormats) {
    Buffer page(PageBytes(format, 32));
    WritePageSlot(format, 32, 0, row.data(), row.data(), page.data());
    RandomTensor keys({1, 32}, 1), values({1, 32}, 2);
    ReadPage(format, page.data(), keys.view, values.view);
    for (float x : keys.data) EXPECT_TRUE(std::isnan(x));
  }
}

TEST(Pages, FormatsHaveNames) {
  EXPECT_STREQ(PageFormatName(PageFormat::kF32), "f32");
  EXPECT_STREQ(PageFormatName(PageFormat::kF16), "f16");
  EXPECT_STREQ(PageFormatName(PageFormat::kBf16), "bf16");
  EXPECT_STREQ(PageFormatName(PageFormat::kFp8), "fp8");
  EXPECT_STREQ(PageFormatName(PageFormat::kInt8), "int8");
  EXPECT_STREQ(PageFormatName(PageFormat::kInt4), "int4");
}

constexpr PageFormat kQuantized[] = {PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4};

// Tokens of one page and what it makes of them.
struct CodedPage {
  CodedPage(PageFormat format, RandomTensor in_keys, RandomTensor in_values)
      : keys(std::move(in_keys)),
        values(std::move(in_values)),
        read_keys({keys.view.dims[0], keys.view.dims[1]}, 1),
        read_values({keys.view.dims[0], keys.view.dims[1]}, 1),
        bytes(PageBytes(format, keys.view.dims[1])) {
    std::vector<int32_t> positions(keys.view.dims[0]);
    std::iota(positions.begin(), positions.end(), 0);
    GatherPages(format, keys.view, values.view, positions, bytes.data());
    ReadPage(format, bytes.data(), read_keys.view, read_values.view);
  }

  RandomTensor keys, values, read_keys, read_values;
  Buffer bytes;
};

double RelativeError(const std::vector<float>& came, const std::vector<float>& wanted) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    error += std::pow(came[i] - wanted[i], 2);
    norm += std::pow(wanted[i], 2);
  }
  return std::sqrt(error / norm);
}

// Of Gaussian numbers: steps of a range of some 4 sigma are 4/255 and 4/15 sigma wide, their error
// 1/sqrt(12) of that; e4m3 has 3 bits of mantissa.
TEST(QuantizedPages, ErrorsAreThoseOfTheirSteps) {
  const std::map<PageFormat, double> most = {
      {PageFormat::kFp8, 0.035}, {PageFormat::kInt8, 0.006}, {PageFormat::kInt4, 0.1}};
  for (const PageFormat format : kQuantized) {
    for (const size_t head_dim : {32, 64, 128}) {
      for (const size_t num_tokens : {size_t{32}, size_t{5}}) {
        const CodedPage page(format, RandomTensor({num_tokens, head_dim}, 1),
                             RandomTensor({num_tokens, head_dim}, 2));
        EXPECT_LT(RelativeError(page.read_keys.data, page.keys.data), most.at(format));
        EXPECT_LT(RelativeError(page.read_values.data, page.values.data), most.at(format));
      }
    }
  }
}

// Channels of keys often have large means: their own scale takes no harm from it.
TEST(QuantizedPages, AChannelsOffsetCostsItNothing) {
  for (const PageFormat format : {PageFormat::kInt8, PageFormat::kInt4}) {
    RandomTensor keys({32, 64}, 1);
    for (size_t t = 0; t < 32; ++t) keys.view.f32(t)[7] += 64;
    const CodedPage page(format, keys, RandomTensor({32, 64}, 2));
    const float steps = format == PageFormat::kInt8 ? 255 : 15;
    for (size_t t = 0; t < 32; ++t) {
      // Half a step of a range of 8, and as much again for the minimum in bf16.
      EXPECT_NEAR(page.read_keys.view.f32(t)[7], keys.view.f32(t)[7], 8.0 / steps + 0.25);
      EXPECT_NEAR(page.read_keys.view.f32(t)[8], keys.view.f32(t)[8], 8.0 / steps);
    }
  }
}

TEST(QuantizedPages, CodesCoverTheRange) {
  for (const PageFormat format : {PageFormat::kInt8, PageFormat::kInt4}) {
    const float steps = format == PageFormat::kInt8 ? 255 : 15;
    const CodedPage page(format, RandomTensor({32, 64}, 5), RandomTensor({32, 64}, 6));
    for (size_t c = 0; c < 64; ++c) {
      float low = page.keys.view.f32(0)[c];
      float high = low;
      for (size_t t = 0; t < 32; ++t) {
        low = std::min(low, page.keys.view.f32(t)[c]);
        high = std::max(high, page.keys.view.f32(t)[c]);
      }
      // A step is that of the range, widened by what bf16 rounds off minimum and scale.
      const float step = (high - low + 0.01f * std::fabs(low)) / steps * 1.01f;
      for (size_t t = 0; t < 32; ++t) {
        EXPECT_NEAR(page.read_keys.view.f32(t)[c], page.keys.view.f32(t)[c], step / 2 * 1.01f);
      }
    }
  }
}

TEST(QuantizedPages, EqualNumbersStayWhatTheyAre) {
  for (const PageFormat format : kQuantized) {
    for (const float x : {0.0f, -3.5f, 448.0f}) {
      RandomTensor rows({7, 32}, 1);
      std::fill(rows.data.begin(), rows.data.end(), x);
      const CodedPage page(format, rows, rows);
      EXPECT_EQ(page.read_keys.data, rows.data) << PageFormatName(format);
      EXPECT_EQ(page.read_values.data, rows.data) << PageFormatName(format);
    }
  }
}

TEST(QuantizedPages, PaddingIsZeroAndDoesNotWidenARange) {
  for (const PageFormat format : kQuantized) {
    RandomTensor rows({3, 32}, 1);
    for (float& x : rows.data) x += 1000;
    const CodedPage page(format, rows, rows);
    EXPECT_LT(RelativeError(page.read_keys.data, rows.data), 0.03);
    const size_t used = 3 * 32 * PageElementBits(format) / 8;
    for (size_t byte = used; byte < PageCodeBytes(format, 32); ++byte) {
      ASSERT_EQ(page.bytes.data()[byte], std::byte{0});
    }
  }
}

TEST(QuantizedPages, NanAndInfinityStayWithWhatSharesTheirScale) {
  for (const PageFormat format : kQuantized) {
    for (const float wrong :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      RandomTensor rows({32, 64}, 1);
      rows.view.f32(3)[5] = wrong;
      const CodedPage page(format, rows, rows);
      if (format == PageFormat::kFp8) continue;
      EXPECT_NEAR(page.read_keys.view.f32(3)[6], rows.view.f32(3)[6], 0.5);
      EXPECT_NEAR(page.read_values.view.f32(3)[40], rows.view.f32(3)[40], 0.5);
      EXPECT_NEAR(page.read_values.view.f32(4)[5], rows.view.f32(4)[5], 0.5);
      for (size_t i = 0; i < 32; ++i) {
        EXPECT_TRUE(std::isnan(page.read_keys.view.f32(i)[5])) << "key " << i;
        EXPECT_TRUE(std::isnan(page.read_values.view.f32(3)[i])) << "channel " << i;
      }
    }
  }
}

TEST(QuantizedPages, Int4CostsFiveBitsPerValue) {
  EXPECT_EQ(PageBytes(PageFormat::kInt4, 64) * 8, 2 * 32 * 64 * 5);
  EXPECT_EQ(PageBytes(PageFormat::kInt8, 128) * 8, 2 * 32 * 128 * 9);
}

}  // namespace
}  // namespace kvship
