#include "kernels/token_draw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <limits>
#include <vector>

#include "base/random.h"
#include "tests/kernels/targets.h"

namespace kvship {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Temperature 1.
constexpr float kScale = 1.44269504f * (1 << kHalvingBits);

TEST(TokenWeight, IsTheExponentialOfTheDistance) {
  for (uint64_t i = 0; i < 100000; ++i) {
    const auto distance = static_cast<uint32_t>(RandomBits(1, i) >> 32);
    const double exact = std::exp2(43 - distance * 0x1p-27);
    ASSERT_NEAR(static_cast<double>(TokenWeight(distance)), exact, 3e-9 * exact + 1) << distance;
  }
  EXPECT_EQ(TokenWeight(0), uint64_t{1} << 43);
  EXPECT_EQ(TokenWeight(31u << kHalvingBits), uint64_t{1} << 12);
  EXPECT_EQ(TokenWeight(kNoChance), 0u);
}

TEST(TokenDistance, WhatIsFarOffOrNoNumberHasNoChance) {
  const auto distance = [](float logit, float highest, float scale) {
    return TokenDistance(logit, highest, scale, kNoChance);
  };
  EXPECT_EQ(distance(5, 5, 1e30f), 0u);
  EXPECT_EQ(distance(4.9999995f, 5, 1e30f), kNoChance);
  EXPECT_NE(distance(0, 22.1f, kScale), kNoChance);
  EXPECT_EQ(distance(0, 22.3f, kScale), kNoChance) << "exp(-22.3) is less than 2^-32";
  EXPECT_EQ(distance(kNan, 0, kScale), kNoChance);
  EXPECT_EQ(distance(-INFINITY, 0, kScale), kNoChance);
  EXPECT_EQ(distance(INFINITY, INFINITY, kScale), kNoChance);
  EXPECT_EQ(TokenDistance(2, 3, 100, 100), 100u);
  EXPECT_EQ(TokenDistance(2, 3, 100, 99), kNoChance);
}

// How often each token is drawn, of `num_draws`.
std::vector<double> Shares(const std::vector<float>& logits, TokenDraw draw, int num_draws) {
  std::vector<double> shares(logits.size());
  for (; draw.index < static_cast<uint64_t>(num_draws); ++draw.index) {
    shares[static_cast<size_t>(DrawToken(logits, draw))] += 1.0 / num_draws;
  }
  return shares;
}

TEST(DrawToken, TakesTheLikeliestWithoutTemperatureAndOfEqualsTheFirst) {
  const std::vector<float> logits = {1, 3, kNan, 3, 2};
  for (uint64_t index = 0; index < 10; ++index) {
    EXPECT_EQ(DrawToken(logits, {.seed = 1, .index = index}), 1);
  }
  EXPECT_EQ(DrawToken(std::vector<float>{kNan, kNan}, {}), kNoToken);
  EXPECT_EQ(DrawToken(std::vector<float>{kNan, -1}, {}), 1);
}

TEST(DrawToken, WhereNobodyHasAChanceTheLikeliestIsTaken) {
  const TokenDraw draw = {.scale = kScale, .top_k = 2, .top_p = uint64_t{1} << 63};
  EXPECT_EQ(DrawToken(std::vector<float>{1, INFINITY, INFINITY}, draw), 1);
  EXPECT_EQ(DrawToken(std::vector<float>{-INFINITY, -INFINITY}, draw), kNoToken);
  EXPECT_EQ(DrawToken(std::vector<float>{kNan, -INFINITY}, draw), kNoToken);
  EXPECT_EQ(DrawToken(std::vector<float>{kNan, -INFINITY, 4}, draw), 2);
}

TEST(DrawToken, DrawsInProportionToTheProbabilities) {
  const std::vector<float> logits = {std::log(0.2f), kNan, std::log(0.5f), std::log(0.3f)};
  // Four standard deviations of a share of 0.5 over 20000 draws are 0.014.
  const std::vector<double> all = Shares(logits, {.scale = kScale, .seed = 11}, 20000);
  EXPECT_NEAR(all[0], 0.2, 0.015);
  EXPECT_EQ(all[1], 0);
  EXPECT_NEAR(all[2], 0.5, 0.015);
  // At temperature 1/2 probabilities are squared.
  const std::vector<double> cold = Shares(logits, {.scale = 2 * kScale, .seed = 11}, 20000);
  EXPECT_NEAR(cold[2], 0.25 / 0.38, 0.015);
  const std::vector<double> two = Shares(logits, {.scale = kScale, .top_k = 2}, 20000);
  EXPECT_EQ(two[0], 0);
  EXPECT_NEAR(two[2], 0.5 / 0.8, 0.015);
  // log2(0.5 / 0.3) is 0.74.
  const std::vector<double> near =
      Shares(logits, {.scale = kScale, .farthest = 3u << (kHalvingBits - 2)}, 20000);
  EXPECT_EQ(near[0], 0);
  EXPECT_NEAR(near[2], 0.5 / 0.8, 0.015);
}

TEST(DrawToken, TopPTakesTheFewestThatHoldIt) {
  const std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f)};
  const auto num_drawn = [&](double top_p, uint32_t top_k) {
    const std::vector<double> shares = Shares(
        logits, {.scale = kScale, .top_k = top_k, .top_p = static_cast<uint64_t>(top_p * 0x1p64)},
        2000);
    return shares.size() - static_cast<size_t>(std::count(shares.begin(), shares.end(), 0.0));
  };
  EXPECT_EQ(num_drawn(1e-9, 0), 1u);
  EXPECT_EQ(num_drawn(0.49, 0), 1u);
  EXPECT_EQ(num_drawn(0.51, 0), 2u);
  EXPECT_EQ(num_drawn(0.79, 0), 2u);
  EXPECT_EQ(num_drawn(0.81, 0), 3u);
  EXPECT_EQ(num_drawn(0.61, 2), 1u) << "of 0.8, half a token more than 0.5";
  EXPECT_EQ(num_drawn(0.64, 2), 2u);
}

// By the definition, one token after the other.
int32_t TokenByToken(const std::vector<float>& logits, const TokenDraw& draw) {
  const float highest = logits[static_cast<size_t>(LikeliestToken(logits))];
  struct Chance {
    uint32_t distance;
    size_t token;
    auto operator<=>(const Chance&) const = default;
  };
  const auto sum_of = [](const std::vector<Chance>& chances) {
    uint64_t sum = 0;
    for (const Chance& chance : chances) sum += TokenWeight(chance.distance);
    return sum;
  };
  std::vector<Chance> chances;
  for (size_t i = 0; i < logits.size(); ++i) {
    chances.push_back({TokenDistance(logits[i], highest, draw.scale, draw.farthest), i});
  }
  std::sort(chances.begin(), chances.end());
  if (draw.top_k > 0) chances.resize(std::min<size_t>(draw.top_k, chances.size()));
  if (draw.top_p > 0) {
    const uint64_t needed = NeededWeight(draw.top_p, sum_of(chances));
    std::vector<Chance> left;
    while (sum_of(left) < needed) left.push_back(chances[left.size()]);
    chances = left;
  }
  std::sort(chances.begin(), chances.end(),
            [](const Chance& a, const Chance& b) { return a.token < b.token; });
  uint64_t left = PartOf(RandomBits(draw.seed, draw.index), sum_of(chances));
  auto drawn = chances.begin();
  for (; left >= TokenWeight(drawn->distance); ++drawn) left -= TokenWeight(drawn->distance);
  return static_cast<int32_t>(drawn->token);
}

TEST(DrawToken, DrawsTheSameOnEveryProcessor) {
  std::vector<float> logits(1000);
  // Distances of all sizes, also where they have no chance, are infinite or no number.
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(RandomBits(5, i) % 3000) / -100;
  }
  logits[3] = kNan;
  logits[700] = -INFINITY;
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget on(target);
    for (TokenDraw draw = {.scale = kScale / 8, .seed = 4}; draw.index < 200; ++draw.index) {
      draw.top_k = draw.index % 2 == 0 ? 0 : 1 << draw.index % 11;  // some more than there are
      draw.top_p = draw.index % 3 == 0 ? 0 : RandomBits(6, draw.index);
      draw.farthest = draw.index % 5 < 3 ? kNoChance : RandomBits(7, draw.index) >> 32;
      ASSERT_EQ(DrawToken(logits, draw), TokenByToken(logits, draw)) << draw.index;
    }
  }
}

TEST(LogSumExp, IsThatOfTheFormula) {
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget on(target);
    for (const size_t size : {1, 7, 64, 1000, 50001}) {
      std::vector<float> logits(size);
      double sum = 0;
      for (size_t i = 0; i < size; ++i) {
        logits[i] = 80 - static_cast<float>(RandomBits(8, i) % 4000) / 100;
        sum += std::exp(static_cast<double>(logits[i]));
      }
      EXPECT_NEAR(LogSumExp(logits), std::log(sum), 1e-6) << size;
    }
    EXPECT_NEAR(LogSumExp(std::vector<float>(20, -1e30f)), -1e30f, 1e24);
    EXPECT_NEAR(LogSumExp(std::vector<float>{-INFINITY, 2, -INFINITY}), 2, 1e-6);
    EXPECT_EQ(LogSumExp(std::vector<float>(20, -INFINITY)), -INFINITY);
    EXPECT_EQ(LogSumExp(std::vector<float>(20, kNan)), -INFINITY);
    for (size_t i = 0; i < 20; ++i) {
      std::vector<float> logits(20, 2);
      logits[i] = kNan;
      EXPECT_NEAR(LogSumExp(logits), 2 + std::log(19), 1e-6) << i;
    }
  }
}

TEST(LikeliestToken, IsTheFirstOfTheLargestWhereverItStands) {
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget on(target);
    for (size_t i = 0; i < 100; ++i) {
      std::vector<float> logits(100, -2);
      logits[99 - i] = kNan;
      logits[i] = 3;
      for (size_t later = i + 1; later < 100; later += 7) logits[later] = 3;
      EXPECT_EQ(LikeliestToken(logits), static_cast<int32_t>(i));
    }
    EXPECT_EQ(LikeliestToken(std::vector<float>(100, kNan)), kNoToken);
    EXPECT_EQ(LikeliestToken(std::vector<float>(100, -INFINITY)), kNoToken);
  }
}

TEST(DrawToken, OfEqualsTheFirstTakePart) {
  const std::vector<float> logits(10000, -3.0f);
  for (uint64_t index = 0; index < 50; ++index) {
    const TokenDraw draw = {.scale = kScale, .seed = 2, .index = index};
    TokenDraw some = draw;
    some.top_k = 7;
    EXPECT_LT(DrawToken(logits, some), 7);
    some = draw;
    some.top_p = uint64_t{1} << 63;
    EXPECT_LT(DrawToken(logits, some), 5000);
  }
  EXPECT_GT(Shares(logits, {.scale = kScale, .top_k = 7}, 1000)[6], 0.1);
}

}  // namespace
}  // namespace kvship
