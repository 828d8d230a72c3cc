#include "compress/allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "compress/selector.h"

namespace kvship {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// Scores and attention of a layer [heads, T].
struct Layer {
  Layer(size_t heads, size_t tokens, std::vector<float> values)
      : scores(std::move(values)), attention(scores) {
    views.scores = TensorView(scores.data(), {heads, scores.size() / heads});
    attention.resize(heads * tokens);
    views.attention = TensorView(attention.data(), {heads, tokens});
    views.window_tokens = 1;
  }
  std::vector<float> scores, attention;
  LayerScores views;
};

CompressionOptions Allocator(const char* name) {
  CompressionOptions options;
  options.allocator = name;
  return options;
}

TEST(AllocateTokens, UniformAndPyramidGiveEachHeadThePlansBudget) {
  Layer layer(2, 4, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_THAT(AllocateTokens(Allocator("uniform"), {3, 0, 1}, layer.views), ElementsAre(3, 3));
  EXPECT_THAT(AllocateTokens(Allocator("pyramid"), {2, 0, 1}, layer.views), ElementsAre(2, 2));
}

TEST(AllocateTokens, AdaGivesPlacesToTheHighestScoresOfAllHeads) {
  CompressionOptions options = Allocator("ada");
  options.alpha = 0;
  Layer layer(2, 4, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_THAT(AllocateTokens(options, {2, 0, 0}, layer.views), ElementsAre(0, 4));
  EXPECT_THAT(AllocateTokens(options, {3, 0, 0}, layer.views), ElementsAre(2, 4));
  EXPECT_THAT(AllocateTokens(options, {2, 0, 1}, layer.views), ElementsAre(1, 3))
      << "the last token of each head is kept whatever its score";
}

TEST(AllocateTokens, AdaLeavesEachHeadItsShare) {
  CompressionOptions options = Allocator("ada");
  Layer layer(2, 8, {1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9});
  for (const auto& [alpha, least] : {std::pair{0.0, 0}, {0.5, 2}, {0.6, 2}, {1.0, 4}}) {
    options.alpha = alpha;
    EXPECT_THAT(AllocateTokens(options, {4, 0, 0}, layer.views), ElementsAre(least, 8 - least));
  }
}

TEST(AllocateTokens, AdaBreaksTiesForTheSmallerHead) {
  CompressionOptions options = Allocator("ada");
  options.alpha = 0;
  Layer layer(3, 4, std::vector<float>(12, 1.0f));
  EXPECT_THAT(AllocateTokens(options, {2, 0, 0}, layer.views), ElementsAre(4, 2, 0));
}

// One after the other: in each head its safe tokens, then the best of all heads.
std::vector<size_t> AdaOneByOne(double alpha, const HeadBudget& budget, const LayerScores& layer) {
  const size_t num_heads = layer.scores.dims[0];
  const size_t always = budget.sinks + budget.recent_tokens;
  const size_t safe =
      always + static_cast<size_t>(alpha * static_cast<double>(budget.tokens - always));
  std::vector<std::vector<bool>> kept(num_heads, std::vector<bool>(layer.attention.dims[1]));
  std::vector<size_t> tokens(num_heads, safe);
  for (size_t h = 0; h < num_heads; ++h) {
    HeadBudget own = budget;
    own.tokens = safe;
    const std::span<const float> scores(layer.scores.f32(h), layer.scores.dims[1]);
    for (int32_t i : SelectTokens(scores, kept[h].size(), own)) kept[h][i] = true;
  }
  for (size_t n = num_heads * safe; n < num_heads * budget.tokens; ++n) {
    size_t head = num_heads, best = 0;
    auto score = [&](size_t h, size_t i) {
      if (i >= layer.scores.dims[1]) return -std::numeric_limits<float>::infinity();
      return layer.scores.f32(h)[i];
    };
    for (size_t h = 0; h < num_heads; ++h) {
      for (size_t i = 0; i < kept[h].size(); ++i) {
        if (kept[h][i]) continue;
        if (head == num_heads || score(h, i) > score(head, best) ||
            (std::isnan(score(head, best)) && !std::isnan(score(h, i)))) {
          head = h;
          best = i;
        }
      }
    }
    kept[head][best] = true;
    ++tokens[head];
  }
  return tokens;
}

TEST(AllocateTokens, AdaEqualsChoosingOneByOne) {
  CompressionOptions options = Allocator("ada");
  for (uint64_t seed = 0; seed < 200; ++seed) {
    constexpr size_t kHeads = 3, kTokens = 12;
    const size_t num_scored = kTokens - RandomBits(seed, 1) % 3;
    std::vector<float> scores(kHeads * num_scored);
    for (size_t i = 0; i < scores.size(); ++i) {
      const uint64_t draw = RandomBits(seed, 100 + i) % 6;
      scores[i] = draw == 5 ? std::nanf("") : static_cast<float>(draw);
    }
    Layer layer(kHeads, kTokens, scores);
    options.alpha = static_cast<double>(RandomBits(seed, 2) % 11) / 10;
    const size_t sinks = RandomBits(seed, 3) % 3, recent = RandomBits(seed, 4) % 4;
    const HeadBudget budget = {sinks + recent + RandomBits(seed, 5) % (kTokens - 5), sinks, recent};
    const auto tokens = AllocateTokens(options, budget, layer.views);
    EXPECT_EQ(tokens, AdaOneByOne(options.alpha, budget, layer.views)) << "seed " << seed;
    EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), size_t{0}), kHeads * budget.tokens);
  }
}

TEST(AllocateTokens, MassStopsWhereTheTargetIsReached) {
  CompressionOptions options = Allocator("mass");
  Layer layer(2, 4, {0.5f, 0.25f, 0.125f, 0.125f, 0.125f, 0.125f, 0.25f, 0.5f});
  layer.views.scores.dims[1] = 3;
  layer.views.scores.strides[0] = 4;
  // The last token is always kept: 0.125 of the first head's attention, 0.5 of the second's.
  for (const auto& [target, first, second] :
       {std::tuple{0.1, 1, 1}, {0.5, 2, 1}, {0.75, 3, 2}, {0.8, 3, 3}, {1.0, 4, 4}}) {
    options.mass_target = target;
    EXPECT_THAT(AllocateTokens(options, {4, 0, 1}, layer.views), ElementsAre(first, second))
        << target;
  }
  options.mass_target = 1;
  EXPECT_THAT(AllocateTokens(options, {2, 0, 1}, layer.views), Each(2)) << "at most the budget";
  options.mass_target = 0.1;
  options.mass_min_tokens = 3;
  EXPECT_THAT(AllocateTokens(options, {4, 0, 1}, layer.views), Each(3)) << "at least the minimum";
  options.mass_min_tokens = 9;
  EXPECT_THAT(AllocateTokens(options, {4, 0, 1}, layer.views), Each(4)) << "of the budget";
}

TEST(AllocateTokens, MassFollowsTheOrderOfTheScoresNotOfTheAttention) {
  CompressionOptions options = Allocator("mass");
  options.mass_target = 0.6;
  Layer layer(1, 4, {1, 3, 2, 0});
  layer.attention = {0.7f, 0.1f, 0.1f, 0.1f};
  EXPECT_THAT(AllocateTokens(options, {4, 0, 0}, layer.views), ElementsAre(3));
}

}  // namespace
}  // namespace kvship
