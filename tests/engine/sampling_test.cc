#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "base/random.h"

namespace kvship {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Sampling, GreedyTakesTheLikeliestAndOfEqualsTheSmallestId) {
  const std::vector<float> logits = {1, 3, kNan, 3, 2};
  EXPECT_EQ(SampleToken(logits, {}, 0, 0)->token, 1);
  EXPECT_EQ(SampleToken(logits, {.temperature = 1, .top_k = 1}, 0, 0)->token, 1);
}

TEST(Sampling, IsAFunctionOfSeedAndIndex) {
  std::vector<float> logits(100);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i));
  const SamplingOptions options = {.temperature = 1, .seed = 5};
  std::map<int32_t, int> seen;
  for (uint64_t index = 0; index < 50; ++index) {
    const int32_t token = SampleToken(logits, options, index, 0)->token;
    EXPECT_EQ(SampleToken(logits, options, index, 3)->token, token);
    ++seen[token];
  }
  EXPECT_GT(seen.size(), 10u) << "different indices draw differently";
}

TEST(Sampling, DrawsInProportionToTheProbabilities) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  for (double top_p : {1.0, 0.8}) {
    std::map<int32_t, double> share;
    constexpr int kDraws = 20000;
    for (int i = 0; i < kDraws; ++i) {
      share[SampleToken(logits, {.temperature = 1, .top_p = top_p, .seed = 11}, i, 0)->token] +=
          1.0 / kDraws;
    }
    // Four standard deviations of a share of 0.5 over 20000 draws are 0.014.
    const double kept = top_p == 1 ? 1.0 : 0.8;
    EXPECT_NEAR(share[0], 0.5 / kept, 0.015);
    EXPECT_NEAR(share[1], 0.3 / kept, 0.015);
    EXPECT_NEAR(share[2], top_p == 1 ? 0.2 : 0.0, 0.015);
  }
}

TEST(Sampling, TopPFindsItsSetInALargeFlatVocabulary) {
  // 10,000 equal tokens: half of them hold top_p = 0.5, far more than the first guess of the
  // search.
  const std::vector<float> logits(10000, 0.0f);
  for (uint64_t i = 0; i < 20; ++i) {
    EXPECT_LT(SampleToken(logits, {.temperature = 1, .top_p = 0.5, .seed = 1}, i, 0)->token, 5001);
  }
}

TEST(Sampling, TopKAndTemperatureNarrowTheChoice) {
  std::vector<float> logits(50, 0.0f);
  logits[7] = 1;
  logits[9] = 0.9f;
  for (uint64_t i = 0; i < 100; ++i) {
    const int32_t token = SampleToken(logits, {.temperature = 5, .top_k = 2}, i, 0)->token;
    EXPECT_TRUE(token == 7 || token == 9);
    EXPECT_EQ(SampleToken(logits, {.temperature = 1e-3}, i, 0)->token, 7);
  }
}

TEST(Sampling, MinPLeavesWhatIsNotMuchLessLikelyThanTheLikeliest) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  const auto num_drawn = [&logits](const SamplingOptions& options) {
    std::set<int32_t> drawn;
    for (uint64_t i = 0; i < 500; ++i) drawn.insert(SampleToken(logits, options, i, 0)->token);
    return drawn.size();
  };
  EXPECT_EQ(num_drawn({.temperature = 1, .min_p = 1e-300}), 3u);
  EXPECT_EQ(num_drawn({.temperature = 1, .min_p = 0.39}), 3u);
  EXPECT_EQ(num_drawn({.temperature = 1, .min_p = 0.41}), 2u);
  EXPECT_EQ(num_drawn({.temperature = 2, .min_p = 0.61}), 3u) << "of the probabilities drawn from";
  EXPECT_EQ(num_drawn({.temperature = 1, .min_p = 0.61}), 1u);
  EXPECT_EQ(num_drawn({.temperature = 1, .min_p = 1}), 1u);
  // Two tokens have 1 of 1 then, but 0.8 of all.
  EXPECT_EQ(num_drawn({.temperature = 1, .top_p = 0.79, .min_p = 0.41}), 2u);
  EXPECT_EQ(num_drawn({.temperature = 1, .top_p = 0.62, .min_p = 0.41}), 1u);
}

TEST(Sampling, PenaltiesAreTakenFromWhatTheOutputHas) {
  const std::vector<float> logits = {3, 2.6f, 0};
  const auto token = [&logits](const SamplingOptions& options, const TokenCounts& output) {
    return SampleToken(logits, options, 0, 0, output)->token;
  };
  EXPECT_EQ(token({.presence_penalty = 0.5}, {}), 0);
  EXPECT_EQ(token({.presence_penalty = 0.5}, {{0, 1}}), 1);
  EXPECT_EQ(token({.presence_penalty = 0.3}, {{0, 9}}), 0) << "once, however often it is there";
  EXPECT_EQ(token({.presence_penalty = 0.5}, {{0, 1}, {1, 1}}), 0);
  EXPECT_EQ(token({.frequency_penalty = 0.3}, {{0, 1}}), 0);
  EXPECT_EQ(token({.frequency_penalty = 0.3}, {{0, 2}}), 1);
  EXPECT_EQ(token({.frequency_penalty = 1}, {{0, 4}, {1, 3}}), 2);
  EXPECT_EQ(token({.presence_penalty = -2}, {{1, 1}}), 1) << "a reward";
  EXPECT_EQ(token({.temperature = 1e-3, .presence_penalty = 0.5}, {{0, 1}}), 1);
}

TEST(Sampling, WhatIsRepeatedIsLessLikelyOnEitherSideOfZero) {
  const auto token = [](const std::vector<float>& logits, const SamplingOptions& options,
                        const TokenCounts& counts) {
    return SampleToken(logits, options, 0, 0, counts)->token;
  };
  EXPECT_EQ(token({3, 2.6f, 0}, {.repetition_penalty = 1.2}, {}), 0);
  EXPECT_EQ(token({3, 2.6f, 0}, {.repetition_penalty = 1.2}, {{0, 0}}), 1) << "of the prompt";
  EXPECT_EQ(token({3, 2.6f, 0}, {.repetition_penalty = 1.1}, {{0, 7}}), 0) << "3 / 1.1 > 2.6";
  EXPECT_EQ(token({-3, -3.4f}, {.repetition_penalty = 1.2}, {{0, 1}}), 1);
  EXPECT_EQ(token({3, 2.6f}, {.repetition_penalty = 0.5}, {{1, 1}}), 1) << "a reward";
  EXPECT_EQ(token({3, 2.6f}, {.presence_penalty = 1, .repetition_penalty = 1.1}, {{0, 0}}), 0)
      << "the prompt is no presence";
  // 4 / 2 - 1 < 1.2 < (4 - 1) / 2
  EXPECT_EQ(token({4, 1.2f}, {.presence_penalty = 1, .repetition_penalty = 2}, {{0, 1}}), 1);
}

TEST(Sampling, ThePromptIsCountedWhereItIsPenalized) {
  const std::vector<int32_t> prompt = {5, 7, 5};
  EXPECT_EQ(PromptCounts(prompt, {.repetition_penalty = 1.1}), (TokenCounts{{5, 0}, {7, 0}}));
  EXPECT_TRUE(PromptCounts(prompt, {.presence_penalty = 1}).empty());
}

TEST(Sampling, ABiasForbidsOrForcesTokens) {
  const std::vector<float> logits = {3, 2, 0};
  EXPECT_EQ(SampleToken(logits, {.logit_bias = {{0, -100}}}, 0, 0)->token, 1);
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(SampleToken(logits, {.temperature = 1, .logit_bias = {{2, 100}}}, i, 0)->token, 2);
    EXPECT_NE(SampleToken(logits, {.temperature = 9, .logit_bias = {{1, -100}}}, i, 0)->token, 1);
  }
  const OutputToken biased = *SampleToken(logits, {.logit_bias = {{2, 100}}}, 0, 1);
  EXPECT_EQ(biased.token, 2);
  EXPECT_EQ(biased.logprob, ForceToken(logits, 2, 1)->logprob) << "the model's own";
  EXPECT_EQ(biased.top[0].token, 0);
}

TEST(Sampling, OnlyTokensOfTheMaskAreDrawn) {
  std::vector<float> logits(70, 0);
  logits[69] = 5;
  TokenMask mask(TokenMaskWords(logits.size()));
  for (const size_t token : {3, 31, 32, 64}) mask[token / 32] |= 1u << token % 32;
  std::set<int32_t> drawn;
  for (uint64_t i = 0; i < 200; ++i) {
    drawn.insert(SampleToken(logits, {.temperature = 1}, i, 0, {}, mask)->token);
  }
  EXPECT_EQ(drawn, (std::set<int32_t>{3, 31, 32, 64}));
  const OutputToken likeliest = *SampleToken(logits, {}, 0, 1, {}, mask);
  EXPECT_EQ(likeliest.token, 3);
  EXPECT_EQ(likeliest.logprob, ForceToken(logits, 3, 1)->logprob) << "the model's own";
  EXPECT_EQ(likeliest.top[0].token, 69);
  EXPECT_EQ(SampleToken(logits, {.logit_bias = {{69, 100}}}, 0, 0, {}, mask)->token, 3);
  EXPECT_EQ(SampleToken(logits, {}, 0, 0, {}, TokenMask())->token, 69) << "an empty one is of all";
}

TEST(Sampling, NothingIsDrawnFromLogitsThatAreNoNumbers) {
  EXPECT_EQ(NoLogits().code(), absl::StatusCode::kFailedPrecondition);
  for (const float none : {kNan, -INFINITY}) {
    const std::vector<float> logits(70, none);
    for (const SamplingOptions& options :
         {SamplingOptions{}, SamplingOptions{.temperature = 1},
          SamplingOptions{.presence_penalty = 1, .logit_bias = {{3, 100}}}}) {
      EXPECT_EQ(SampleToken(logits, options, 0, 0).status(), NoLogits());
      EXPECT_EQ(SampleToken(logits, options, 0, 2).status(), NoLogits());
    }
    EXPECT_EQ(ForceToken(logits, 5, 0).status(), NoLogits());
  }
  EXPECT_EQ(ForceToken(std::vector<float>{1, INFINITY}, 0, 1).status(), NoLogits());
}

TEST(Sampling, AMaskOfTokensWithoutChanceAllowsNone) {
  std::vector<float> logits(70, 1);
  logits[3] = kNan;
  logits[64] = -INFINITY;
  TokenMask mask(TokenMaskWords(logits.size()));
  for (const size_t token : {3, 64}) mask[token / 32] |= 1u << token % 32;
  EXPECT_EQ(SampleToken(logits, {}, 0, 0, {}, mask).status(), NoLogits());
  EXPECT_EQ(SampleToken(logits, {.temperature = 1}, 0, 3, {}, mask).status(), NoLogits());
}

TEST(Sampling, LogprobsAreThoseOfTheWholeDistribution) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  const OutputToken forced = *ForceToken(logits, 2, 2);
  EXPECT_EQ(forced.token, 2);
  EXPECT_NEAR(forced.logprob, std::log(0.2), 1e-6);
  ASSERT_EQ(forced.top.size(), 2u);
  EXPECT_EQ(forced.top[0].token, 0);
  EXPECT_NEAR(forced.top[1].logprob, std::log(0.3), 1e-6);
}

TEST(Sampling, LogprobsAreThoseOfTheLikeliestInOrder) {
  std::vector<float> logits(500);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(RandomBits(9, i) % 40) / 10;  // many equal ones
  }
  logits[0] = logits[450] = kNan;
  logits[1] = -INFINITY;
  std::vector<int32_t> sorted(logits.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
    return (std::isnan(logits[a]) ? -INFINITY : logits[a]) >
           (std::isnan(logits[b]) ? -INFINITY : logits[b]);
  });
  for (const size_t count : {size_t{1}, size_t{20}, size_t{600}}) {
    const std::vector<TokenLogprob> top = ForceToken(logits, 7, count)->top;
    ASSERT_EQ(top.size(), std::min(count, logits.size()));
    for (size_t i = 0; i < top.size(); ++i)
      EXPECT_EQ(top[i].token, sorted[i]) << count << ", " << i;
  }
}

TEST(Sampling, RefusesWhatIsNoProbability) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE((SamplingOptions{.temperature = -1}).Validate().ok());
  EXPECT_FALSE((SamplingOptions{.temperature = nan}).Validate().ok());
  EXPECT_FALSE((SamplingOptions{.temperature = INFINITY}).Validate().ok());
  EXPECT_FALSE((SamplingOptions{.top_p = 0}).Validate().ok());
  EXPECT_FALSE((SamplingOptions{.top_p = nan}).Validate().ok());
  EXPECT_FALSE((SamplingOptions{.top_p = 1.01}).Validate().ok());
  for (double min_p : {-0.1, 1.1, nan}) {
    EXPECT_FALSE((SamplingOptions{.min_p = min_p}).Validate().ok());
  }
  EXPECT_TRUE((SamplingOptions{}).Validate().ok());
}

TEST(Sampling, RefusesPenaltiesAndBiasesOutOfBounds) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (double penalty : {-2.1, 2.1, nan}) {
    EXPECT_FALSE((SamplingOptions{.presence_penalty = penalty}).Validate().ok());
    EXPECT_FALSE((SamplingOptions{.repetition_penalty = 5 * penalty}).Validate().ok());
    EXPECT_FALSE((SamplingOptions{.frequency_penalty = penalty}).Validate().ok());
  }
  for (float bias : {-100.1f, 100.1f, kNan}) {
    EXPECT_EQ((SamplingOptions{.logit_bias = {{5, bias}}}).Validate().message().substr(0, 25),
              "sampling.logit_bias[5] is");
  }
  SamplingOptions options = {.presence_penalty = -2, .frequency_penalty = 2};
  options.logit_bias.resize(1024);
  EXPECT_TRUE(options.Validate().ok());
  options.logit_bias.resize(1025);
  EXPECT_EQ(options.Validate().message(),
            "sampling.logit_bias is for 1025 tokens; wanted at most 1024");
}

}  // namespace
}  // namespace kvship
