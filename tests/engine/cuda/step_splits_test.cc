#include "engine/cuda/step_splits.h"

#include <gtest/gtest.h>

#include "kernels/cuda/paged_attention.h"

namespace kvship::cuda {
namespace {

constexpr size_t kMany = 1 << 20;

// A head for each number of pages, half of them in the tail.
std::vector<kvship::PagedHead> Heads(const std::vector<size_t>& num_pages) {
  static const std::vector<const std::byte*> pages(1000);
  std::vector<kvship::PagedHead> heads;
  for (size_t count : num_pages) {
    kvship::PagedHead& head = heads.emplace_back();
    head.prefix_pages = std::span(pages).first(count / 2);
    head.tail_pages = std::span(pages).first(count - count / 2);
  }
  return heads;
}

TEST(StepSplitsTest, AreNumberedThroughTheHeadsOfEachLayer) {
  const auto splits = NumberSplits(Heads({1, 9, 0, 8, 17, 16}), 2, 1, kMany);
  ASSERT_TRUE(splits.ok()) << splits.status();
  EXPECT_EQ(splits->first_split, (std::vector<uint32_t>{0, 1, 3, 4, 0, 1, 4, 6}));
  EXPECT_EQ(splits->num_splits, 6);
}

TEST(StepSplitsTest, AreRoundedUpToFourNumbersPerPowerOfTwo) {
  for (const auto& [num_splits, rounded] :
       {std::pair{2, 2}, {7, 7}, {8, 8}, {9, 10}, {17, 20}, {99, 112}, {112, 112}}) {
    const auto pages = static_cast<size_t>(num_splits) * kSplitPages;
    EXPECT_EQ(NumberSplits(Heads({pages}), 1, 1, kMany)->num_splits, rounded);
  }
}

TEST(StepSplitsTest, OfHeadsWithOneEachAreNotRoundedAndTakeNoScratch) {
  EXPECT_EQ(NumberSplits(Heads(std::vector<size_t>(99, kSplitPages)), 1, 4, 0)->num_splits, 99);
}

TEST(StepSplitsTest, OfTheLargestLayerFitIntoTheScratch) {
  const std::vector<kvship::PagedHead> heads = Heads({1, 4, 17 * kSplitPages, 1});
  EXPECT_EQ(NumberSplits(heads, 2, 4, 18 * 4)->num_splits, 18);
  const auto refused = NumberSplits(heads, 2, 4, 18 * 4 - 1);
  EXPECT_EQ(refused.status(),
            absl::ResourceExhaustedError("a batch whose attention has 18 splits in a layer: the "
                                         "scratch has room for 17"));
}

ModelConfig Llama8B() {
  ModelConfig config;
  config.num_layers = 32;
  config.num_query_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.context_tokens = size_t{1} << 17;
  return config;
}

TEST(MostSplitRowsTest, HoldAWholeContextOrTwiceALayersShareOfThePool) {
  const ModelConfig config = Llama8B();
  const size_t whole_context = 32 * 513;
  EXPECT_EQ(MostSplitRows(config, 1, size_t{60} << 30), whole_context);
  EXPECT_EQ(MostSplitRows(config, 32, size_t{2} << 30), whole_context);
  const size_t rows = MostSplitRows(config, 32, size_t{60} << 30);
  EXPECT_GT(rows, whole_context);
  EXPECT_LT(rows, 32 * whole_context);
  EXPECT_LT(static_cast<double>(rows * SplitRowBytes(128)), 0.005 * 0x1p30 * 60);
}

TEST(MostSplitRowsTest, OfASmallPoolHoldAllItsPagesInOneLayer) {
  const ModelConfig config = Llama8B();
  const size_t pool_bytes = size_t{64} << 20;
  const size_t pool_pages = pool_bytes / PageBytes(PageFormat::kInt4, 128);
  EXPECT_EQ(MostSplitRows(config, 1, pool_bytes), 32 + pool_pages * 4 / kSplitPages);
}

}  // namespace
}  // namespace kvship::cuda
