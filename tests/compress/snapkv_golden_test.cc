// SnapKV's scores and kept sets against kvpress and the paper's own code
// (tests/goldens/compression.json).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/transformer.h"
#include "tools/local_run.h"

namespace kvship {
namespace {

using nlohmann::json;

json Golden() {
  std::ifstream file(KVSHIP_GOLDENS "/compression.json");
  return json::parse(file).at("llama");
}

LocalRun::Prefilled Compressed(const std::vector<int32_t>& tokens, const std::string& options) {
  auto model = LoadTransformer(KVSHIP_GOLDENS "/models/llama");
  EXPECT_TRUE(model.ok()) << model.status();
  LocalRun run(**model, {.arithmetic = Arithmetic::kFloat32, .tail_format = PageFormat::kF32});
  auto prefilled = run.Prefill(tokens, *ParseCompression(options), 1, /*with_scores=*/true);
  EXPECT_TRUE(prefilled.ok()) << prefilled.status();
  return *std::move(prefilled);
}

// Positions may differ only where their score ties with the boundary.
void ExpectSameSet(const std::vector<int32_t>& kept, const std::vector<int32_t>& wanted,
                   const std::vector<float>& scores) {
  ASSERT_EQ(kept.size(), wanted.size());
  float boundary = INFINITY;
  for (int32_t position : kept) {
    if (static_cast<size_t>(position) < scores.size()) {
      boundary = std::min(boundary, scores[position]);
    }
  }
  std::vector<int32_t> odd;
  std::set_symmetric_difference(kept.begin(), kept.end(), wanted.begin(), wanted.end(),
                                std::back_inserter(odd));
  for (int32_t position : odd) {
    ASSERT_LT(static_cast<size_t>(position), scores.size()) << "always kept";
    EXPECT_NEAR(scores[position], boundary, 1e-5) << "position " << position;
  }
}

struct Case {
  const char* policy;
  const char* options;
};

class SnapKvGolden : public ::testing::TestWithParam<Case> {};

TEST_P(SnapKvGolden, ScoresAndKeptSetsAreThoseOfTheReference) {
  const json golden = Golden();
  const json& policy = golden.at("policies").at(GetParam().policy);
  const auto prefilled =
      Compressed(golden.at("prompt_tokens").get<std::vector<int32_t>>(), GetParam().options);
  const auto kept =
      policy.at("kept_positions").get<std::vector<std::vector<std::vector<int32_t>>>>();
  ASSERT_EQ(prefilled.layers.size(), kept.size());
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    const Compressor::Result& ours = prefilled.layers[layer];
    ASSERT_EQ(ours.positions.size(), kept[layer].size());
    for (size_t head = 0; head < kept[layer].size(); ++head) {
      ExpectSameSet(ours.positions[head], kept[layer][head], ours.scores[head]);
      if (!policy.contains("scores")) continue;
      const auto wanted = policy.at("scores")[layer][head].get<std::vector<float>>();
      const auto& scores = ours.scores[head];
      ASSERT_LT(scores.size(), wanted.size());
      const float largest = *std::max_element(scores.begin(), scores.end());
      for (size_t i = 0; i < scores.size(); ++i) {
        ASSERT_NEAR(scores[i], wanted[i], 1e-4 * largest)
            << "layer " << layer << " head " << head << " position " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Llama, SnapKvGolden,
    ::testing::Values(Case{"snapkv_w16_k5_avg", "window=16,kernel=5,budget_tokens=48"},
                      Case{"snapkv_w8_k1_avg", "window=8,kernel=1,budget_tokens=48"},
                      Case{"snapkv_original_avgpool_w16_k5",
                           "window=16,kernel=5,budget_ratio=0.2425,group_reduce=none,"
                           "window_reduce=sum"},
                      Case{"snapkv_original_maxpool_w16_k7",
                           "window=16,kernel=7,pool=max,budget_tokens=48,group_reduce=none,"
                           "window_reduce=sum"}),
    [](const auto& info) { return std::string(info.param.policy); });

TEST(RetainedMass, OfTheWholeCacheIsOneAndFallsWithTheBudget) {
  const auto tokens = Golden().at("prompt_tokens").get<std::vector<int32_t>>();
  double last = 1.0 + 1e-6;
  for (const char* options :
       {"scorer=keep_all", "window=16,budget_tokens=160,kernel=1",
        "window=16,budget_tokens=80,kernel=1", "window=16,budget_tokens=24,kernel=1"}) {
    double mass = 0;
    const auto prefilled = Compressed(tokens, options);
    for (const auto& layer : prefilled.layers) {
      for (float m : layer.compact.retained_mass) mass += m / 4;  // 2 layers of 2 heads
    }
    EXPECT_LT(mass, last) << options;
    EXPECT_GT(mass, 0.1) << options;
    last = mass;
  }
}

TEST(SnapKv, PrefixSoftmaxDividesByTheAttentionBeforeTheWindow) {
  const auto tokens = Golden().at("prompt_tokens").get<std::vector<int32_t>>();
  const auto prefix = Compressed(tokens, "window=16,kernel=1,budget_tokens=48,softmax=prefix");
  // Unpooled scores of each KV head are means over window and group of distributions over the
  // prefix.
  for (const auto& layer : prefix.layers) {
    for (const auto& scores : layer.scores) {
      double sum = 0;
      for (float s : scores) sum += s;
      EXPECT_NEAR(sum, 1, 1e-4);
    }
  }
}

TEST(SnapKv, OrderOfPoolingAndGroupReductionMattersForMaximaOnly) {
  const auto tokens = Golden().at("prompt_tokens").get<std::vector<int32_t>>();
  const std::string average = "window=16,kernel=5,budget_tokens=48,group_order=";
  const auto after = Compressed(tokens, average + "after");
  const auto before = Compressed(tokens, average + "before");
  for (size_t l = 0; l < after.layers.size(); ++l) {
    for (size_t h = 0; h < after.layers[l].scores.size(); ++h) {
      for (size_t i = 0; i < after.layers[l].scores[h].size(); ++i) {
        ASSERT_NEAR(after.layers[l].scores[h][i], before.layers[l].scores[h][i], 1e-6);
      }
    }
  }
  const auto max_after = Compressed(tokens, average + "after,pool=max");
  const auto max_before = Compressed(tokens, average + "before,pool=max");
  EXPECT_NE(max_after.layers[0].scores, max_before.layers[0].scores);
}

}  // namespace
}  // namespace kvship
