#include "engine/query_moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "base/random.h"
#include "engine/rope_table.h"

namespace kvship {
namespace {

ModelConfig SmallModel(RopePairs pairs) {
  ModelConfig config;
  config.num_query_heads = 2;
  config.head_dim = 6;
  config.rope_frequencies = {1.0, 0.1, 0.003};
  config.rope_pairs = pairs;
  return config;
}

// Queries [M, Hq, D] of a mean far from 0 beside their spread.
std::vector<float> Queries(size_t num_queries) {
  std::vector<float> out(num_queries * 2 * 6);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(100.0 * static_cast<double>(i % 12) + UniformUnit(7, i));
  }
  return out;
}

// Moments of the queries, each turned by every future position's RoPE and averaged: R q by its
// definition, one vector at a time.
std::vector<double> TurnedByRope(const ModelConfig& config, const float* query, size_t begin,
                                 size_t count) {
  std::vector<double> out(6);
  for (size_t position = begin; position < begin + count; ++position) {
    std::vector<float> cos_sin(6);
    FillRopeRow(config, position, cos_sin.data());
    std::vector<float> q(query, query + 6);
    Backend backend(1);
    EXPECT_TRUE(Rope(backend, TensorView(q.data(), {1, 1, 6}), TensorView(cos_sin.data(), {1, 6}),
                     config.rope_pairs)
                    .ok());
    for (size_t d = 0; d < 6; ++d) out[d] += q[d] / static_cast<double>(count);
  }
  return out;
}

TEST(MeanTurns, AreTheMeansOfTheTurns) {
  constexpr double kPi = std::numbers::pi;
  ModelConfig config;
  config.rope_pairs = RopePairs::kHalves;
  config.rope_frequencies = {0, 1e-300,  1e-12,   1e-5,           0.003,          0.1, 1,  3, kPi,
                             4, 2 * kPi, 6 * kPi, 2 * kPi + 1e-9, 2 * kPi - 1e-9, 7,   100};
  config.head_dim = 2 * config.rope_frequencies.size();
  for (size_t begin : {0, 1, 4097, 1'000'000}) {
    for (size_t count : {1, 2, 3, 512, 5000}) {
      const std::vector<MeanTurn> turns = MeanTurns(config, begin, count);
      for (size_t p = 0; p < turns.size(); ++p) {
        double cosine = 0, sine = 0;
        for (size_t i = begin; i < begin + count; ++i) {
          const double angle = static_cast<double>(i) * config.rope_frequencies[p];
          cosine += std::cos(angle) / static_cast<double>(count);
          sine += std::sin(angle) / static_cast<double>(count);
        }
        // Both round angles of up to 10^8 to 53 bits.
        EXPECT_NEAR(turns[p].cosine, cosine, 1e-7) << p << ": " << begin << ", " << count;
        EXPECT_NEAR(turns[p].sine, sine, 1e-7) << p << ": " << begin << ", " << count;
      }
    }
  }
}

TEST(MeanTurns, OfVeryManyPositionsTakeNoTime) {
  ModelConfig config = SmallModel(RopePairs::kHalves);
  config.rope_frequencies = {1.0, 1e-9, 0};
  constexpr size_t kCount = size_t{1} << 50;  // years, one by one
  const std::vector<MeanTurn> turns = MeanTurns(config, 100, kCount);
  EXPECT_NEAR(turns[0].cosine, 0, 1e-14);  // they point everywhere
  EXPECT_NEAR(turns[1].sine, 0, 1e-5);
  EXPECT_EQ(turns[2].cosine, 1);
  EXPECT_EQ(turns[2].sine, 0);
}

TEST(QueryMoments, AreThoseOfTheTurnedQueries) {
  constexpr size_t kQueries = 300, kBegin = 300, kCount = 16;
  for (RopePairs pairs : {RopePairs::kHalves, RopePairs::kAdjacent}) {
    ModelConfig config = SmallModel(pairs);
    config.rope_attention_factor = 1.25;
    Backend backend(2);
    std::vector<float> queries = Queries(kQueries);
    QueryMoments moments(config, kBegin, kCount);
    for (int layer = 0; layer < 2; ++layer) {  // of the second nothing is left of the first
      moments.Clear();
      const TensorView view(queries.data(), {kQueries, 2, 6});
      ASSERT_TRUE(moments.Add(backend, view.Slice(0, 0, 100)).ok());
      ASSERT_TRUE(moments.Add(backend, view.Slice(0, 100, kQueries - 100)).ok());
    }
    std::vector<float> mean(2 * 6), covariance(2 * 36);
    moments.Turned(backend, TensorView(mean.data(), {2, 6}),
                   TensorView(covariance.data(), {2, 6, 6}));
    for (size_t h = 0; h < 2; ++h) {
      std::vector<std::vector<double>> turned;
      std::vector<double> mu(6);
      for (size_t m = 0; m < kQueries; ++m) {
        turned.push_back(TurnedByRope(config, queries.data() + (m * 2 + h) * 6, kBegin, kCount));
        for (size_t d = 0; d < 6; ++d) mu[d] += turned.back()[d] / kQueries;
      }
      for (size_t a = 0; a < 6; ++a) {
        EXPECT_NEAR(mean[h * 6 + a], mu[a], 1e-3);
        for (size_t b = 0; b < 6; ++b) {
          double sigma = 0;
          for (const auto& q : turned) sigma += (q[a] - mu[a]) * (q[b] - mu[b]) / kQueries;
          // The reference turns float32 queries of about 1000, good to 1e-4 and independent of each
          // other; the spread is 0.3.
          EXPECT_NEAR(covariance[(h * 6 + a) * 6 + b], sigma, 1e-4) << a << ", " << b;
        }
      }
    }
  }
}

TEST(QueryMoments, AccurateForLongPromptsFarFromZero) {
  const ModelConfig config = [] {
    ModelConfig c = SmallModel(RopePairs::kHalves);
    c.rope_frequencies = {0, 0, 0};  // nothing turns
    return c;
  }();
  constexpr size_t kQueries = 8192;
  Backend backend(2);
  std::vector<float> queries = Queries(kQueries);
  QueryMoments moments(config, kQueries, 512);
  ASSERT_TRUE(moments.Add(backend, TensorView(queries.data(), {kQueries, 2, 6})).ok());
  std::vector<float> mean(2 * 6), covariance(2 * 36);
  moments.Turned(backend, TensorView(mean.data(), {2, 6}),
                 TensorView(covariance.data(), {2, 6, 6}));
  for (size_t h = 0; h < 2; ++h) {
    for (size_t a = 0; a < 6; ++a) {
      double mu = 0, sigma = 0;
      for (size_t m = 0; m < kQueries; ++m) mu += queries[(m * 2 + h) * 6 + a] / double{kQueries};
      for (size_t m = 0; m < kQueries; ++m) {
        sigma += std::pow(queries[(m * 2 + h) * 6 + a] - mu, 2) / kQueries;
      }
      EXPECT_NEAR(mean[h * 6 + a], mu, 1e-7 * mu);
      EXPECT_NEAR(covariance[(h * 6 + a) * 6 + a], sigma, 1e-6 * sigma);
    }
  }
}

}  // namespace
}  // namespace kvship
