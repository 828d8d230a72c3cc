#include "kernels/cuda/token_draw.h"

#include <cmath>
#include <limits>
#include <random>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kScale = 1.44269504f * (1 << kHalvingBits);  // temperature 1

using TokenDrawTest = DeviceTest;

std::vector<float> RandomLogits(size_t count, float deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(-2.0f, deviation);
  std::vector<float> logits(count);
  for (float& x : logits) x = normal(random);
  return logits;
}

// One call for all draws, each from the same logits, against the CPU's tokens.
void ExpectTheCpusTokens(const std::vector<float>& logits, const std::vector<TokenDraw>& draws) {
  std::vector<float> rows;
  for (size_t b = 0; b < draws.size(); ++b) rows.insert(rows.end(), logits.begin(), logits.end());
  const DeviceArray<float> device_logits(rows);
  const DeviceArray<TokenDraw> device_draws(draws);
  const DeviceArray<int32_t> tokens(draws.size());
  for (uint64_t step = 0; step < 3; ++step) {
    ASSERT_TRUE(DrawTokens(nullptr, {.logits = device_logits.data(),
                                     .draws = device_draws.data(),
                                     .tokens = tokens.data(),
                                     .num_sequences = draws.size(),
                                     .vocab_tokens = logits.size()})
                    .ok());
    const std::vector<int32_t> got = tokens.ToHost();
    for (size_t b = 0; b < draws.size(); ++b) {
      TokenDraw draw = draws[b];
      draw.index += step;
      ASSERT_EQ(got[b], DrawToken(logits, draw))
          << "of " << logits.size() << ", scale " << draw.scale / kScale << ", top_k " << draw.top_k
          << ", top_p " << static_cast<double>(draw.top_p) * 0x1p-64 << ", index " << draw.index
          << ", farthest " << draw.farthest;
    }
  }
}

// Every way to leave tokens out, at two temperatures.
std::vector<TokenDraw> EveryKind() {
  constexpr uint32_t kFarthest[] = {kNoChance, 3u << kHalvingBits, 1000};
  std::vector<TokenDraw> draws = {{.index = 3}};
  for (float scale : {kScale, kScale / 4}) {
    for (uint32_t top_k : {0, 1, 40, 3000, 100000}) {
      for (double top_p : {0.0, 1e-12, 0.5, 0.95}) {
        draws.push_back({.scale = scale,
                         .top_k = top_k,
                         .top_p = static_cast<uint64_t>(top_p * 0x1p64),
                         .seed = draws.size(),
                         .index = 100 * draws.size(),
                         .farthest = kFarthest[draws.size() % 3]});
      }
    }
  }
  return draws;
}

TEST_F(TokenDrawTest, DrawsTheCpusTokens) {
  for (size_t vocab_tokens : {1, 2, 33, 1025, 5000}) {
    for (float deviation : {0.3f, 3.0f}) {
      ExpectTheCpusTokens(RandomLogits(vocab_tokens, deviation, 7), EveryKind());
    }
  }
}

TEST_F(TokenDrawTest, DrawsTheCpusTokensFromALargeVocabulary) {
  ExpectTheCpusTokens(RandomLogits(151936, 2.5f, 1),
                      {{.scale = kScale, .seed = 5},
                       {.scale = kScale, .top_k = 50, .top_p = uint64_t{15} << 60, .seed = 6}});
}

TEST_F(TokenDrawTest, OfEqualsTheFirstTakePart) {
  std::vector<float> logits(3000, -1.0f);
  ExpectTheCpusTokens(logits, EveryKind());
  for (size_t i = 0; i < logits.size(); i += 3) logits[i] = 1.0f;
  ExpectTheCpusTokens(logits, EveryKind());
}

TEST_F(TokenDrawTest, NanAndInfinityHaveNoChance) {
  std::vector<float> logits = RandomLogits(700, 1.0f, 2);
  for (size_t i = 0; i < logits.size(); i += 2) logits[i] = i % 4 == 0 ? kNan : -INFINITY;
  ExpectTheCpusTokens(logits, EveryKind());
  logits[123] = logits[200] = INFINITY;
  ExpectTheCpusTokens(logits, EveryKind());
  ExpectTheCpusTokens(std::vector<float>(100, kNan), EveryKind());
  ExpectTheCpusTokens(std::vector<float>(100, -INFINITY), EveryKind());
}

TEST_F(TokenDrawTest, TheLikeliestTokenIsTheFirstOfTheLargest) {
  std::vector<float> logits(5000, -1.0f);
  logits[17] = logits[16] = logits[4999] = 3.0f;
  logits[4] = kNan;
  ExpectTheCpusTokens(logits, {{}});
}

TEST_F(TokenDrawTest, RefusesMoreTokensThanWeightsAddUpFor) {
  EXPECT_FALSE(DrawTokens(nullptr, {.num_sequences = 1, .vocab_tokens = kMostDrawnFrom + 1}).ok());
  EXPECT_FALSE(DrawTokens(nullptr, {.num_sequences = 0, .vocab_tokens = 5}).ok());
}

}  // namespace
}  // namespace kvship::cuda
