#include <gtest/gtest.h>

#include <cstring>
#include <limits>

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
}

}  // namespace
}  // namespace kvship
