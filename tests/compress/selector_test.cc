#include "compress/selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Takes one token after the other: always-kept ones, then again and again the best of the rest.
std::vector<int32_t> SelectOneByOne(const std::vector<float>& scores, size_t prompt_tokens,
                                    const HeadBudget& budget) {
  std::vector<bool> kept(prompt_tokens);
  for (size_t i = 0; i < prompt_tokens; ++i) {
    kept[i] = i < budget.sinks || i + budget.recent_tokens >= prompt_tokens;
  }
  auto score = [&](size_t i) { return i < scores.size() ? scores[i] : -kInfinity; };
  for (size_t n = static_cast<size_t>(std::count(kept.begin(), kept.end(), true));
       n < budget.tokens; ++n) {
    size_t best = prompt_tokens;
    for (size_t i = 0; i < prompt_tokens; ++i) {
      if (kept[i]) continue;
      const bool better = best == prompt_tokens || score(i) > score(best) ||
                          (std::isnan(score(best)) && !std::isnan(score(i)));
      if (better) best = i;
    }
    kept[best] = true;
  }
  std::vector<int32_t> positions;
  for (size_t i = 0; i < prompt_tokens; ++i) {
    if (kept[i]) positions.push_back(static_cast<int32_t>(i));
  }
  return positions;
}

TEST(SelectTokens, EqualsChoosingOneByOneForEveryShortPrompt) {
  const float values[] = {0.5f, -1.0f, 2.0f, kNan};
  for (size_t prompt_tokens = 1; prompt_tokens <= 5; ++prompt_tokens) {
    for (size_t row = 0; row < size_t{1} << 2 * prompt_tokens; ++row) {
      std::vector<float> all(prompt_tokens);
      for (size_t i = 0; i < prompt_tokens; ++i) all[i] = values[row >> 2 * i & 3];
      for (size_t num_scored = 0; num_scored <= prompt_tokens; ++num_scored) {
        const std::vector<float> scores(all.begin(), all.begin() + num_scored);
        for (size_t sinks = 0; sinks <= prompt_tokens; ++sinks) {
          for (size_t recent = 0; sinks + recent <= prompt_tokens; ++recent) {
            for (size_t tokens = sinks + recent; tokens <= prompt_tokens; ++tokens) {
              const HeadBudget budget = {tokens, sinks, recent};
              ASSERT_EQ(SelectTokens(scores, prompt_tokens, budget),
                        SelectOneByOne(scores, prompt_tokens, budget))
                  << "row " << row << " of " << prompt_tokens << ", scored " << num_scored
                  << ", budget " << tokens << ", sinks " << sinks << ", recent " << recent;
            }
          }
        }
      }
    }
  }
}

TEST(SelectTokens, EqualsChoosingOneByOneOnPlateaus) {
  std::vector<float> scores(200);
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<float>(RandomBits(3, i / 7) % 5);  // as max pooling leaves them
  }
  for (size_t tokens = 12; tokens <= 230; tokens += 7) {
    const HeadBudget budget = {tokens, 2, 10};
    EXPECT_EQ(SelectTokens(scores, 230, budget), SelectOneByOne(scores, 230, budget));
  }
}

TEST(SelectTokens, KeepsSinksRecentAndTheBestBetween) {
  const std::vector<float> scores = {0, 0, 5, 1, 9, 3, 7, 0, 0, 0};
  EXPECT_THAT(SelectTokens(scores, 10, {5, 1, 2}), ElementsAre(0, 4, 6, 8, 9));
}

TEST(SelectTokens, ScoresOfAlwaysKeptTokensDoNotCount) {
  const std::vector<float> scores = {9, 9, 1, 2, 3, 9, 9};
  EXPECT_THAT(SelectTokens(scores, 7, {5, 2, 2}), ElementsAre(0, 1, 4, 5, 6));
}

TEST(SelectTokens, TiesGoToTheSmallestPosition) {
  const std::vector<float> scores(6, 1.0f);
  EXPECT_THAT(SelectTokens(scores, 8, {4, 0, 2}), ElementsAre(0, 1, 6, 7));
}

TEST(SelectTokens, UnscoredPositionsComeLast) {
  const std::vector<float> scores = {-5, -7};
  EXPECT_THAT(SelectTokens(scores, 6, {2, 0, 1}), ElementsAre(0, 5));
  EXPECT_THAT(SelectTokens(scores, 6, {4, 0, 1}), ElementsAre(0, 1, 2, 5));
}

TEST(SelectTokens, NoneAndAll) {
  const std::vector<float> scores = {1, 2, 3};
  EXPECT_THAT(SelectTokens(scores, 3, {0, 0, 0}), IsEmpty());
  EXPECT_THAT(SelectTokens(scores, 3, {3, 0, 1}), ElementsAre(0, 1, 2));
  EXPECT_THAT(SelectTokens(scores, 3, {3, 2, 1}), ElementsAre(0, 1, 2));
}

std::vector<int32_t> Chunks(std::vector<std::vector<float>> heads, size_t prompt_tokens,
                            const HeadBudget& budget, size_t chunk_tokens, size_t num_chunks) {
  std::vector<float> scores;
  for (const auto& head : heads) scores.insert(scores.end(), head.begin(), head.end());
  return SelectChunks(TensorView(scores.data(), {heads.size(), heads.front().size()}),
                      prompt_tokens, budget, chunk_tokens, num_chunks);
}

TEST(SelectChunks, KeepsWholeChunksOfTheHighestMean) {
  EXPECT_THAT(Chunks({{0, 0, 9, 0, 4, 4, 1}}, 7, {}, 2, 2), ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(Chunks({{0, 0, 1, 0, 0, 0, 5}}, 7, {}, 2, 1), ElementsAre(6))
      << "the last chunk is shorter, and its mean is over what it has";
}

TEST(SelectChunks, SumTheHeads) {
  EXPECT_THAT(Chunks({{5, 0, 0, 4}, {0, 0, 3, 4}}, 4, {}, 2, 1), ElementsAre(2, 3));
}

TEST(SelectChunks, CountAlwaysKeptTokensAsMoreThanTheLargestScore) {
  // Of the layer's two heads: 2 * (3 + 1) for the last token, so 8 / 2 against (3 + 3) / 2.
  EXPECT_THAT(Chunks({{3, 3, 0, 0}, {0, 0, 0, 0}}, 4, {1, 0, 1}, 2, 1), ElementsAre(2, 3));
  EXPECT_THAT(Chunks({{0, 0, 3, 3}, {0, 0, 0, 0}}, 4, {1, 1, 0}, 2, 1), ElementsAre(0, 1));
}

TEST(SelectChunks, CountTokensWithoutAScoreAsTheSmallest) {
  EXPECT_THAT(Chunks({{1, 1, 2, 2}}, 6, {}, 2, 1), ElementsAre(2, 3));
  EXPECT_THAT(Chunks({{1, 1, 2, 2}}, 6, {}, 2, 2), ElementsAre(0, 1, 2, 3));
}

TEST(SelectChunks, TiesGoToTheFirstChunkAndNanIsTheSmallest) {
  EXPECT_THAT(Chunks({{1, 1, 1, 1, 1, 1}}, 6, {}, 2, 2), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Chunks({{kNan, 9, 1, 1, 2, 1}}, 6, {}, 2, 2), ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(Chunks({{kNan, kNan, kNan}}, 3, {}, 2, 1), ElementsAre(0, 1));
}

TEST(SelectChunks, AllAreTheWholePrompt) {
  EXPECT_THAT(Chunks({{1, 2, 3}}, 3, {}, 2, 2), ElementsAre(0, 1, 2));
  EXPECT_THAT(Chunks({{1, 2, 3}}, 3, {}, 20, 1), ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace kvship
