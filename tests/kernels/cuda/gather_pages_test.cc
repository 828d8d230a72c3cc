#include "kernels/cuda/gather_pages.h"

#include <cmath>
#include <limits>
#include <span>

#include "kernels/attention.h"
#include "kernels/page_layout.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr size_t kHeads = 4, kTokens = 500, kFirstKept = 70;
// Pages of 32 tokens: 3, none, 2 and 1; and room for one more, which stays unwritten.
constexpr size_t kPages = 6, kMostPages = 7;

// Keys and values of four heads, and four sets of which 70, no, 33 and 32 tokens are kept.
struct GatherCase {
  GatherCase(DType dtype, size_t head_dim, float deviation = 1.0f)
      : dtype(dtype),
        head_dim(head_dim),
        keys(RandomTensor(dtype, kHeads * kTokens * head_dim, 1, deviation)),
        values(RandomTensor(dtype, kHeads * kTokens * head_dim, 2, deviation)),
        offsets({0, 70, 70, 103, 135}),
        positions(135) {
    for (size_t i = 0; i < positions.size(); ++i) {
      positions[i] = static_cast<int32_t>(i % kFirstKept * 7 + i / kFirstKept);
    }
  }

  void SetKey(size_t kept, size_t channel, float x) {
    const size_t i = static_cast<size_t>(positions[kept]) * head_dim + channel;
    keys.bits[i] = BitsOf(dtype, x);
    keys.values[i] = ValueOf(dtype, keys.bits[i]);
  }

  std::vector<std::byte> OnTheDevice(PageFormat format) const {
    const DeviceArray<uint16_t> device_keys(keys.bits), device_values(values.bits);
    const DeviceArray<int32_t> device_positions(positions), device_offsets(offsets);
    const DeviceArray<std::byte> pages(kMostPages * PageBytes(format, head_dim));
    const GatherPagesArgs args = {.keys = device_keys.data(),
                                  .values = device_values.data(),
                                  .positions = device_positions.data(),
                                  .offsets = device_offsets.data(),
                                  .pages = pages.data(),
                                  .dtype = dtype,
                                  .format = format,
                                  .num_kv_heads = kHeads / sets_per_head,
                                  .sets_per_head = sets_per_head,
                                  .head_dim = head_dim,
                                  .head_stride = kTokens * head_dim,
                                  .most_pages = kMostPages};
    EXPECT_EQ(GatherPages(nullptr, args), absl::OkStatus());
    return pages.ToHost();
  }

  // What is left unwritten is as the device's memory was before.
  std::vector<std::byte> OnTheCpu(PageFormat format) {
    const size_t page_bytes = PageBytes(format, head_dim);
    std::vector<std::byte> pages(kMostPages * page_bytes, std::byte{0xff});
    size_t page = 0;
    for (size_t set = 0; set < kHeads; ++set) {
      const std::span own(positions.begin() + offsets[set], positions.begin() + offsets[set + 1]);
      const size_t first = set / sets_per_head * kTokens * head_dim;
      kvship::GatherPages(format, TensorView(&keys.values[first], {kTokens, head_dim}),
                          TensorView(&values.values[first], {kTokens, head_dim}), own,
                          pages.data() + page * page_bytes);
      page += PagesFor(own.size());
    }
    EXPECT_EQ(page, kPages);
    return pages;
  }

  DType dtype;
  size_t head_dim;
  size_t sets_per_head = 1;
  Tensor16 keys, values;
  std::vector<int32_t> offsets, positions;
};

using GatherPagesTest = DeviceTest;

TEST_F(GatherPagesTest, AreTheCpusBitForBit) {
  for (size_t head_dim : {64, 128, 80}) {
    for (DType dtype : {DType::kF16, DType::kBf16}) {
      GatherCase c(dtype, head_dim);
      for (PageFormat format : {PageFormat::kF32, PageFormat::kF16, PageFormat::kBf16}) {
        ASSERT_EQ(c.OnTheDevice(format), c.OnTheCpu(format))
            << PageFormatName(format) << " of head_dim " << head_dim;
      }
    }
  }
}

TEST_F(GatherPagesTest, InFp8AreTheCpusBitForBit) {
  for (DType dtype : {DType::kF16, DType::kBf16}) {
    for (size_t head_dim : {64, 128, 80, 8}) {
      GatherCase c(dtype, head_dim);
      ASSERT_EQ(c.OnTheDevice(PageFormat::kFp8), c.OnTheCpu(PageFormat::kFp8)) << head_dim;
    }
  }
}

TEST_F(GatherPagesTest, InInt8AndInt4AreTheCpusBitForBit) {
  for (PageFormat format : {PageFormat::kInt8, PageFormat::kInt4}) {
    for (DType dtype : {DType::kF16, DType::kBf16}) {
      for (size_t head_dim : {64, 128, 96, 32}) {
        GatherCase c(dtype, head_dim);
        ASSERT_EQ(c.OnTheDevice(format), c.OnTheCpu(format))
            << PageFormatName(format) << " of head_dim " << head_dim;
      }
    }
  }
}

TEST_F(GatherPagesTest, OfAnyMagnitudeAreTheCpusBitForBit) {
  for (PageFormat format : {PageFormat::kF32, PageFormat::kF16, PageFormat::kFp8, PageFormat::kInt8,
                            PageFormat::kInt4}) {
    for (float deviation : {0.0f, 1e-30f, 1e-4f, 1e3f, 1e30f, 1e38f}) {
      GatherCase c(DType::kBf16, 64, deviation);
      ASSERT_EQ(c.OnTheDevice(format), c.OnTheCpu(format))
          << PageFormatName(format) << " of deviation " << deviation;
    }
  }
}

TEST_F(GatherPagesTest, OfEqualNumbersAndOutliersAreTheCpusBitForBit) {
  for (PageFormat format : {PageFormat::kF32, PageFormat::kF16, PageFormat::kFp8, PageFormat::kInt8,
                            PageFormat::kInt4}) {
    GatherCase c(DType::kBf16, 64);
    for (size_t token = 0; token < kFirstKept; ++token) {
      c.SetKey(token, 3, 0.0f);
      c.SetKey(token, 4, -1.25f);
    }
    c.SetKey(5, 6, 1e6f);
    c.SetKey(40, 7, std::numeric_limits<float>::infinity());
    ASSERT_EQ(c.OnTheDevice(format), c.OnTheCpu(format)) << PageFormatName(format);
  }
}

TEST_F(GatherPagesTest, NanMakesWhatSharesItsScaleNan) {
  for (PageFormat format : {PageFormat::kInt8, PageFormat::kInt4}) {
    GatherCase c(DType::kF16, 64);
    c.SetKey(3, 5, std::numeric_limits<float>::quiet_NaN());
    const std::vector<std::byte> pages = c.OnTheDevice(format);
    std::vector<float> keys(kPageTokens * 64), values(keys.size());
    ReadPage(format, pages.data(), TensorView(keys.data(), {kPageTokens, 64}),
             TensorView(values.data(), {kPageTokens, 64}));
    for (size_t i = 0; i < keys.size(); ++i) {
      ASSERT_EQ(std::isnan(keys[i]), i % 64 == 5);
      ASSERT_FALSE(std::isnan(values[i]));
    }
  }
}

TEST_F(GatherPagesTest, OfSeveralSetsOfAKvHeadAreTheCpusBitForBit) {
  for (PageFormat format : {PageFormat::kF16, PageFormat::kF32, PageFormat::kInt4}) {
    GatherCase c(DType::kF16, 64);
    c.sets_per_head = 2;
    ASSERT_EQ(c.OnTheDevice(format), c.OnTheCpu(format)) << PageFormatName(format);
  }
}

TEST_F(GatherPagesTest, RejectsAHeadSizeThatDoesNotFit) {
  const GatherPagesArgs args = {.dtype = DType::kF16,
                                .format = PageFormat::kInt4,
                                .num_kv_heads = 1,
                                .head_dim = 80,
                                .head_stride = 80,
                                .most_pages = 1};
  EXPECT_EQ(GatherPages(nullptr, args).message(), "head_dim 80: wanted a multiple of 32");
}

}  // namespace
}  // namespace kvship::cuda
