#include "kernels/cuda/gather_pages.h"

#include "kernels/page_layout.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using GatherPagesTest = DeviceTest;

TEST_F(GatherPagesTest, CopyEachHeadsTokensAndPadTheLastPageWithZeros) {
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
    for (size_t h = 0; h < kHeads; ++h) {
      for (size_t i = 0; i < PagesFor(counts[h]) * kPageTokens; ++i) {
        const size_t page = (h * 3 + i / kPageTokens) * page_elements;
        for (size_t d = 0; d < head_dim; ++d) {
          const size_t slot = page + i % kPageTokens * head_dim + d;
          const bool kept = i < static_cast<size_t>(counts[h]);
          const size_t from = kept ? (h * kTokens + positions[h * 70 + i]) * head_dim + d : 0;
          ASSERT_EQ(got[slot], kept ? keys.bits[from] : 0);
          ASSERT_EQ(got[slot + kPageTokens * head_dim], kept ? values.bits[from] : 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvship::cuda
