#include "kernels/moments.h"

#include <gtest/gtest.h>

#include "tests/kernels/attention_reference.h"
#include "tests/kernels/targets.h"

namespace kvship {
namespace {

struct Moments {
  std::vector<double> sums, products;
};

Moments Add(const TensorView& x, size_t num_threads, size_t block_rows) {
  const auto [rows, heads, head_dim, unused] = x.dims;
  Backend backend(num_threads);
  Moments out{std::vector<double>(heads * head_dim),
              std::vector<double>(heads * head_dim * head_dim)};
  for (size_t begin = 0; begin < rows; begin += block_rows) {
    const TensorView block = x.Slice(0, begin, std::min(block_rows, rows - begin));
    EXPECT_TRUE(AddMoments(backend, block, out.sums, out.products).ok());
  }
  return out;
}

TEST(AddMoments, SumsElementsAndTheirProducts) {
  for (int64_t target : Targets()) {
    OnTarget on(target);
    for (const size_t head_dim : {2, 6, 16, 20, 64, 80}) {
      RandomTensor x({50, 3, head_dim}, 1);
      const Moments moments = Add(x.view.Slice(1, 1, 2), 2, 50);
      for (size_t h = 0; h < 2; ++h) {
        for (size_t a = 0; a < head_dim; ++a) {
          double sum = 0;
          for (size_t m = 0; m < 50; ++m) sum += x.view.f32(m, 1 + h)[a];
          ASSERT_DOUBLE_EQ(moments.sums[h * head_dim + a], sum);
          for (size_t b = a; b < head_dim; ++b) {
            double product = 0;
            for (size_t m = 0; m < 50; ++m) {
              product += double{x.view.f32(m, 1 + h)[a]} * x.view.f32(m, 1 + h)[b];
            }
            ASSERT_EQ(moments.products[(h * head_dim + a) * head_dim + b], product)
                << "head size " << head_dim << ": " << a << ", " << b;
          }
        }
      }
    }
  }
}

TEST(AddMoments, DependOnNeitherThreadsNorBlocks) {
  RandomTensor x({300, 5, 32}, 2);
  const Moments whole = Add(x.view, 1, 300);
  for (const auto& [threads, block] : {std::pair<size_t, size_t>{3, 300}, {2, 7}}) {
    const Moments other = Add(x.view, threads, block);
    EXPECT_EQ(other.sums, whole.sums);
    EXPECT_EQ(other.products, whole.products);
  }
}

TEST(AddMoments, RefuseShapesThatDoNotFit) {
  Backend backend(1);
  RandomTensor x({4, 2, 8}, 1);
  std::vector<double> sums(16), products(128);
  EXPECT_TRUE(AddMoments(backend, x.view, sums, products).ok());
  EXPECT_EQ(AddMoments(backend, x.view, sums, std::span(products).first(64)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AddMoments(backend, x.view, std::span(sums).first(8), products).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ExpectedLogits, EqualTheFormula) {
  for (int64_t target : Targets()) {
    OnTarget on(target);
    for (const size_t head_dim : {6, 16, 64}) {
      for (const size_t num_tokens : {1, 50, 131}) {
        RandomTensor mean({4, head_dim}, 1), covariance({4, head_dim, head_dim}, 2);
        RandomTensor keys({2, num_tokens, head_dim}, 3), logits({4, num_tokens}, 4);
        Backend backend(2);
        ASSERT_TRUE(
            ExpectedLogits(backend, {mean.view, covariance.view, keys.view, logits.view}).ok());
        const double d = static_cast<double>(head_dim);
        for (size_t head = 0; head < 4; ++head) {
          for (size_t i = 0; i < num_tokens; ++i) {
            const float* const key = keys.view.f32(head / 2, i);
            double logit = 0, terms = 0;
            for (size_t a = 0; a < head_dim; ++a) {
              logit += key[a] * mean.view.f32(head)[a] / std::sqrt(d);
              for (size_t b = 0; b < head_dim; ++b) {
                const double term = double{key[a]} * covariance.view.f32(head, a)[b] * key[b];
                logit += term / (2 * d);
                terms += std::abs(term) / (2 * d);
              }
            }
            // Two sums of D terms, each of them rounded 2 D times by 2^-24.
            ASSERT_NEAR(logits.view.f32(head)[i], logit, 2 * d * 6e-8 * (terms + 1));
          }
        }
      }
    }
  }
}

TEST(ExpectedLogits, AreBitIdenticalForAnyNumberOfThreads) {
  RandomTensor mean({6, 64}, 1), covariance({6, 64, 64}, 2), keys({2, 500, 64}, 3);
  std::vector<std::vector<float>> results;
  for (const size_t num_threads : {1, 2, 5}) {
    Backend backend(num_threads);
    RandomTensor logits({6, 500}, 4);
    ASSERT_TRUE(ExpectedLogits(backend, {mean.view, covariance.view, keys.view, logits.view}).ok());
    results.push_back(logits.data);
    EXPECT_EQ(results.back(), results.front());
  }
}

TEST(ExpectedLogits, RefuseShapesThatDoNotFit) {
  Backend backend(1);
  RandomTensor mean({4, 8}, 1), covariance({4, 8, 8}, 2), keys({2, 5, 8}, 3), logits({4, 5}, 4);
  const auto code = [&](const ExpectedLogitsArgs& args) {
    return ExpectedLogits(backend, args).code();
  };
  EXPECT_EQ(code({mean.view.Slice(0, 0, 3), covariance.view, keys.view, logits.view}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mean.view, covariance.view.Slice(0, 0, 2), keys.view, logits.view}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mean.view, covariance.view, keys.view, logits.view.Slice(1, 0, 4)}),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship
