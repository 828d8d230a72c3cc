#include "kernels/cuda/gather_pages.h"

#include <span>

#include "kernels/attention.h"
#include "kernels/page_layout.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using GatherPagesTest = DeviceTest;

TEST_F(GatherPagesTest, AreTheCpusBitForBit) {
  constexpr size_t kHeads = 2, kTokens = 500;
  for (size_t head_dim : {64, 128, 80}) {
    const Tensor16 keys = RandomTensor(DType::kF16, kHeads * kTokens * head_dim, 1);
    const Tensor16 values = RandomTensor(DType::kF16, kHeads * kTokens * head_dim, 2);
    const std::vector<int32_t> counts = {70, 33};
    std::vector<int32_t> positions(kHeads * 70);
    for (size_t i = 0; i < positions.size(); ++i)
      positions[i] = static_cast<int32_t>(i % 70 * 7 + i / 70);
    const DeviceArray<uint16_t> device_keys(keys.bits), device_values(values.bits);
    const DeviceArray<int32_t> device_positions(positions), device_counts(counts);
    const size_t page_elements = 2 * kPageTokens * head_dim;
    const DeviceArray<uint16_t> pages(kHeads * 3 * page_elements);
    const GatherPagesArgs args = {.keys = device_keys.data(),
                                  .values = device_values.data(),
                                  .positions = device_positions.data(),
                                  .num_per_head = device_counts.data(),
                                  .pages = reinterpret_cast<std::byte*>(pages.data()),
                                  .dtype = DType::kF16,
                                  .num_kv_heads = kHeads,
                                  .head_dim = head_dim,
                                  .head_stride = kTokens * head_dim,
                                  .num_tokens = 70,
                                  .positions_row_stride = 70,
                                  .pages_per_head = 3};
    ASSERT_TRUE(GatherPages(nullptr, args).ok());
    const std::vector<uint16_t> got = pages.ToHost();
    Tensor16 k = keys, v = values;
    for (size_t h = 0; h < kHeads; ++h) {
      const std::span own(&positions[h * 70], static_cast<size_t>(counts[h]));
      std::vector<uint16_t> expected(PagesFor(own.size()) * page_elements);
      kvship::GatherPages(PageFormat::kF16,
                          TensorView(&k.values[h * kTokens * head_dim], {kTokens, head_dim}),
                          TensorView(&v.values[h * kTokens * head_dim], {kTokens, head_dim}), own,
                          reinterpret_cast<std::byte*>(expected.data()));
      const auto begin = got.begin() + static_cast<int64_t>(h * 3 * page_elements);
      ASSERT_EQ(std::vector<uint16_t>(begin, begin + static_cast<int64_t>(expected.size())),
                expected);
    }
    EXPECT_EQ(got.back(), 0xffff) << "written past the last head's pages";
  }
}

}  // namespace
}  // namespace kvship::cuda
