#include "kernels/cuda/expected_scores.h"

#include <cmath>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using ExpectedScoresTest = DeviceTest;

struct Case {
  DType dtype;
  size_t query_heads, kv_heads, tokens, head_dim, first_token;
};

const Case kCases[] = {{DType::kBf16, 4, 2, 130, 128, 4},
                       {DType::kF16, 3, 1, 77, 64, 0},
                       {DType::kF16, 2, 2, 1, 128, 0},
                       {DType::kBf16, 2, 2, 200, 64, 199}};

// The inputs of one case, and what the definition gives in double precision.
struct Expected {
  explicit Expected(const Case& c)
      : stride((c.tokens + 5) * c.head_dim),
        keys(RandomTensor(c.dtype, c.kv_heads * stride, 1)),
        values(RandomTensor(c.dtype, c.kv_heads * stride, 2)),
        mean(RandomTensor(DType::kBf16, c.query_heads * c.head_dim, 3).values),
        covariance(c.query_heads * c.head_dim * c.head_dim),
        scores(c.kv_heads * c.tokens) {
    const size_t d = c.head_dim, group = c.query_heads / c.kv_heads;
    const auto size = static_cast<double>(d);
    for (size_t head = 0; head < c.query_heads; ++head) {
      SetCovariance(c, head);
      const float* sigma = &covariance[head * d * d];
      std::vector<double> logits(c.tokens);
      double sum = 0;
      for (size_t i = c.first_token; i < c.tokens; ++i) {
        const float* k = &keys.values[head / group * stride + i * d];
        double terms = 0;  // their absolute values
        for (size_t a = 0; a < d; ++a) {
          const double linear = k[a] * mean[head * d + a] / std::sqrt(size);
          logits[i] += linear;
          terms += std::abs(linear);
          for (size_t b = 0; b < d; ++b) {
            const double product = double{k[a]} * sigma[a * d + b] * k[b] / (2 * size);
            logits[i] += product;
            terms += std::abs(product);
          }
        }
        largest_terms = std::max(largest_terms, terms);
        sum += std::exp(logits[i]);
      }
      for (size_t i = c.first_token; i < c.tokens; ++i) {
        scores[head / group * c.tokens + i] +=
            std::exp(logits[i]) / sum / static_cast<double>(group);
      }
    }
    for (size_t row = 0; row < scores.size(); ++row) {
      const float* v = &values.values[row / c.tokens * stride + row % c.tokens * d];
      double squares = 0;
      for (size_t a = 0; a < d; ++a) squares += double{v[a]} * v[a];
      scores[row] *= std::sqrt(squares);
    }
  }

  // A random matrix times its transpose.
  void SetCovariance(const Case& c, size_t head) {
    const size_t d = c.head_dim;
    const std::vector<float> root =
        RandomTensor(DType::kBf16, d * d, 4 + head, 1 / std::sqrt(static_cast<float>(d))).values;
    for (size_t a = 0; a < d; ++a) {
      for (size_t b = 0; b < d; ++b) {
        float product = 0;
        for (size_t e = 0; e < d; ++e) product += root[a * d + e] * root[b * d + e];
        covariance[(head * d + a) * d + b] = product;
      }
    }
  }

  size_t stride;
  Tensor16 keys, values;
  std::vector<float> mean, covariance;
  std::vector<double> scores;
  double largest_terms = 0;  // of a logit
};

TEST_F(ExpectedScoresTest, AreSharesOfWhatIsExpectedTimesTheValuesNorm) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << "Hq " << c.query_heads << " H " << c.kv_heads << " T "
                                    << c.tokens << " D " << c.head_dim << " S " << c.first_token);
    const Expected expected(c);
    const size_t row_stride = c.tokens + 3;
    const DeviceArray<uint16_t> keys(expected.keys.bits), values(expected.values.bits);
    const DeviceArray<float> mean(expected.mean), covariance(expected.covariance);
    const DeviceArray<float> logits(c.query_heads * c.tokens), scores(c.kv_heads * row_stride);
    const DeviceArray<std::byte> workspace(ExpectedScoresWorkspaceBytes(c.query_heads));
    ASSERT_EQ(ExpectedScores(nullptr, {.keys = keys.data(),
                                       .values = values.data(),
                                       .mean = mean.data(),
                                       .covariance = covariance.data(),
                                       .logits = logits.data(),
                                       .scores = scores.data(),
                                       .workspace = workspace.data(),
                                       .dtype = c.dtype,
                                       .num_query_heads = c.query_heads,
                                       .num_kv_heads = c.kv_heads,
                                       .num_tokens = c.tokens,
                                       .head_dim = c.head_dim,
                                       .head_stride = expected.stride,
                                       .scores_row_stride = row_stride,
                                       .first_token = c.first_token}),
              absl::OkStatus());
    const std::vector<float> got = scores.ToHost();
    // A logit's error, some of 2 D roundings of its terms, is the score's relative error, and so is
    // that of the sum; as much again for exp and the norm.
    const double tolerance =
        2 * 0x1p-24 * (static_cast<double>(c.head_dim) * expected.largest_terms + 64);
    for (size_t h = 0; h < c.kv_heads; ++h) {
      for (size_t i = 0; i < c.tokens; ++i) {
        const double score = expected.scores[h * c.tokens + i];
        ASSERT_NEAR(got[h * row_stride + i], score, tolerance * score) << "at " << i;
      }
      EXPECT_TRUE(std::isnan(got[h * row_stride + c.tokens])) << "written past the last token";
    }
  }
}

TEST_F(ExpectedScoresTest, RefuseAFirstTokenPastThePrompt) {
  const ExpectedScoresArgs args = {.num_query_heads = 2,
                                   .num_kv_heads = 1,
                                   .num_tokens = 4,
                                   .head_dim = 64,
                                   .head_stride = 256,
                                   .scores_row_stride = 4,
                                   .first_token = 4};
  EXPECT_EQ(ExpectedScores(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
