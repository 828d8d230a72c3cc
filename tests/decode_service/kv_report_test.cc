#include "decode_service/kv_report.h"

#include <gtest/gtest.h>

namespace kvship {
namespace {

TEST(KvReport, SumsUpTheHeadsAndSaysWhereTheLeastIs) {
  constexpr KvShape kShape = {
      .num_layers = 2, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 32};
  auto pool = *KvPool::Create(8 * KvPool::kSlabBytes);
  const KvPlan plan = *MakePlan(
      *ParseCompression("allocator=mass,budget_tokens=60,window=8,encoder=int4"), kShape, 100);
  auto cache = *SequenceCache::Reserve(*pool, kShape, plan, 8, PageFormat::kF16);
  const std::vector<LayerHeader> layers = {
      {.layer = 0, .kept_tokens = {10, 60}, .retained_mass = {0.5f, 1}, .chosen_mass = {0.25f, 1}},
      {.layer = 1,
       .kept_tokens = {20, 30},
       .retained_mass = {0.25f, 0.75f},
       .chosen_mass = {0, 0.75f}}};
  for (const LayerHeader& layer : layers) {
    ASSERT_TRUE(cache->BeginLayer(layer.layer, layer.kept_tokens).ok());
  }
  const v1::KvReport report = MakeKvReport(*cache, layers);
  EXPECT_EQ(report.kept_tokens(), 30);
  EXPECT_EQ(report.retained_mass_mean(), 0.625);
  EXPECT_EQ(report.retained_mass_min(), 0.25);
  EXPECT_EQ(report.retained_mass_min_layer(), 1u);
  EXPECT_EQ(report.retained_mass_min_head(), 0u);
  EXPECT_EQ(report.chosen_mass_mean(), 0.5);
  EXPECT_EQ(report.pool_bytes(), 5 * PageBytes(PageFormat::kInt4, 32));
  EXPECT_EQ(report.uncompressed_bytes(), 4 * 4 * PageBytes(PageFormat::kF16, 32));
  ASSERT_EQ(report.layers_size(), 2);
  EXPECT_EQ(report.layers(1).kept_tokens(1), 30u);
  EXPECT_EQ(report.layers(0).chosen_mass(0), 0.25f);
}

}  // namespace
}  // namespace kvship
