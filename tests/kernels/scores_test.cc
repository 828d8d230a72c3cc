#include "kernels/scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/attention_reference.h"

namespace kvship {
namespace {

using testing::ElementsAre;

struct Window {
  Window(size_t query_heads, size_t kv_heads, size_t head_dim, size_t num_queries,
         size_t num_tokens)
      : q({query_heads, num_queries, head_dim}, 1),
        keys({kv_heads, num_tokens, head_dim}, 2),
        lse({query_heads, num_queries}, 3) {}
  RandomTensor q, keys, lse;
};

// The probability sums and log-sum-exps of one query head, from keys [0, num_keys).
struct ReferenceVotes {
  std::vector<double> votes;
  std::vector<double> lse;
};

ReferenceVotes VoteByFormula(const Window& window, size_t head, size_t first_position,
                             size_t num_keys) {
  const size_t group = window.q.view.dims[0] / window.keys.view.dims[0];
  const TensorView keys = Head(window.keys.view, head / group);
  ReferenceVotes out;
  out.votes.assign(num_keys, 0.0);
  for (size_t w = 0; w < window.q.view.dims[1]; ++w) {
    const ReferenceRow row = AttendByFormula(window.q.view.f32(head, w), keys, keys,
                                             std::min(num_keys, first_position + w + 1));
    for (size_t i = 0; i < row.probabilities.size(); ++i) out.votes[i] += row.probabilities[i];
    out.lse.push_back(row.lse);
  }
  return out;
}

struct Case {
  size_t query_heads, kv_heads, head_dim, num_queries, num_tokens, first_position, num_keys;
};

class WindowOf : public testing::TestWithParam<Case> {};

TEST_P(WindowOf, VotesAndLogSumExpEqualTheFormula) {
  const Case& c = GetParam();
  Backend backend(2);
  Window window(c.query_heads, c.kv_heads, c.head_dim, c.num_queries, c.num_tokens);
  ASSERT_TRUE(WindowLogSumExp(backend, window.q.view, window.keys.view, c.num_keys,
                              c.first_position, window.lse.view)
                  .ok());
  RandomTensor votes({c.query_heads, c.num_keys}, 9);
  ASSERT_TRUE(WindowVotes(backend, {.q = window.q.view,
                                    .keys = window.keys.view,
                                    .lse = window.lse.view,
                                    .first_position = c.first_position,
                                    .votes = votes.view})
                  .ok());
  for (size_t head = 0; head < c.query_heads; ++head) {
    const ReferenceVotes expected = VoteByFormula(window, head, c.first_position, c.num_keys);
    for (size_t w = 0; w < c.num_queries; ++w) {
      EXPECT_NEAR(window.lse.view.f32(head)[w], expected.lse[w], 1e-5);
    }
    for (size_t i = 0; i < c.num_keys; ++i) {
      // Each of the probabilities has a relative error of about that of its score, 1e-5.
      ASSERT_NEAR(votes.view.f32(head)[i], expected.votes[i], 1e-5 * expected.votes[i] + 1e-12)
          << head << ", " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, WindowOf,
    testing::Values(Case{9, 3, 64, 64, 1000, 936, 1000},  // the end of a prompt
                    Case{9, 3, 64, 32, 900, 400, 432},    // a window in the middle
                    Case{4, 2, 16, 16, 200, 184, 184},    // the prefix only
                    Case{8, 1, 128, 8, 60, 52, 60}, Case{4, 4, 20, 5, 5, 0, 5},
                    Case{2, 1, 16, 1, 1, 0, 1}));

TEST(WindowVotes, AreBitIdenticalForAnyNumberOfThreads) {
  Window window(6, 2, 64, 32, 2000);
  std::vector<std::vector<float>> results;
  for (const size_t num_threads : {1, 2, 5}) {
    Backend backend(num_threads);
    ASSERT_TRUE(
        WindowLogSumExp(backend, window.q.view, window.keys.view, 2000, 1968, window.lse.view)
            .ok());
    RandomTensor votes({6, 2000}, 9);
    ASSERT_TRUE(WindowVotes(backend, {.q = window.q.view,
                                      .keys = window.keys.view,
                                      .lse = window.lse.view,
                                      .first_position = 1968,
                                      .votes = votes.view})
                    .ok());
    results.push_back(window.lse.data);
    results.push_back(votes.data);
  }
  for (size_t i = 2; i < results.size(); ++i) EXPECT_EQ(results[i], results[i % 2]);
}

TEST(WindowVotes, OfAKeyDoNotDependOnHowManyKeysThereAre) {
  Backend backend(2);
  Window window(4, 2, 32, 8, 500);
  RandomTensor all({4, 500}, 9), some({4, 77}, 9);
  for (RandomTensor* votes : {&all, &some}) {
    ASSERT_TRUE(WindowVotes(backend, {.q = window.q.view,
                                      .keys = window.keys.view,
                                      .lse = window.lse.view,
                                      .first_position = 60,
                                      .votes = votes->view})
                    .ok());
  }
  for (size_t head = 0; head < 4; ++head) {
    for (size_t i = 0; i < 77; ++i) EXPECT_EQ(some.view.f32(head)[i], all.view.f32(head)[i]);
    for (size_t i = 68; i < 500; ++i) EXPECT_EQ(all.view.f32(head)[i], 0.0f) << "in the future";
  }
}

TEST(WindowVotes, AccumulatedOverBlocksAreTheColumnSumsOfTheWholePrompt) {
  constexpr size_t kTokens = 150;
  Window prompt(4, 2, 32, kTokens, kTokens);
  std::vector<std::vector<float>> results;
  for (const size_t block_tokens : {150, 64, 7}) {
    Backend backend(2);
    ASSERT_TRUE(
        WindowLogSumExp(backend, prompt.q.view, prompt.keys.view, kTokens, 0, prompt.lse.view)
            .ok());
    std::vector<float>& sums = results.emplace_back(4 * kTokens, 0.0f);
    const TensorView votes(sums.data(), {4, kTokens});
    for (size_t begin = 0; begin < kTokens; begin += block_tokens) {
      const size_t rows = std::min(block_tokens, kTokens - begin);
      ASSERT_TRUE(WindowVotes(backend, {.q = prompt.q.view.Slice(1, begin, rows),
                                        .keys = prompt.keys.view,
                                        .lse = prompt.lse.view.Slice(1, begin, rows),
                                        .first_position = begin,
                                        .accumulate = true,
                                        .votes = votes.Slice(1, 0, begin + rows)})
                      .ok());
    }
    EXPECT_EQ(sums, results.front()) << "blocks of " << block_tokens;
  }
  for (size_t head = 0; head < 4; ++head) {
    const ReferenceVotes expected = VoteByFormula(prompt, head, 0, kTokens);
    for (size_t i = 0; i < kTokens; ++i) {
      // Probabilities as above; then up to T roundings of the sum, of 2^-24 each.
      const double tolerance = (1e-5 + kTokens * 6e-8) * expected.votes[i];
      ASSERT_NEAR(results.front()[head * kTokens + i], expected.votes[i], tolerance);
    }
  }
}

TEST(WindowVotes, RefuseShapesThatDoNotFit) {
  Backend backend(1);
  Window window(4, 2, 16, 8, 50);
  RandomTensor votes({4, 51}, 9);
  EXPECT_EQ(WindowVotes(backend, {.q = window.q.view,
                                  .keys = window.keys.view,
                                  .lse = window.lse.view,
                                  .first_position = 42,
                                  .votes = votes.view})
                .code(),
            absl::StatusCode::kInvalidArgument)
      << "51 votes for 50 keys";
  EXPECT_EQ(WindowLogSumExp(backend, window.q.view.Slice(0, 0, 3), window.keys.view, 50, 42,
                            window.lse.view)
                .code(),
            absl::StatusCode::kInvalidArgument)
      << "3 query heads on 2";
}

std::vector<float> Pool(std::vector<float> in, Pooling pooling, size_t kernel) {
  Backend backend(1);
  std::vector<float> out(in.size());
  EXPECT_TRUE(PoolScores(backend, TensorView(in.data(), {1, in.size()}), pooling, kernel,
                         TensorView(out.data(), {1, in.size()}))
                  .ok());
  return out;
}

TEST(PoolScores, AverageCountsThePaddingAtTheEdges) {
  EXPECT_THAT(Pool({3, 6, 9, 12}, Pooling::kAverage, 3), ElementsAre(3, 6, 9, 7));
  EXPECT_THAT(Pool({5}, Pooling::kAverage, 5), ElementsAre(1));
}

TEST(PoolScores, MaximumIgnoresThePadding) {
  EXPECT_THAT(Pool({-3, -6, -9, -1}, Pooling::kMax, 3), ElementsAre(-3, -3, -1, -1));
}

TEST(PoolScores, AKernelOfOneOrNoPoolingIsTheIdentity) {
  for (const Pooling pooling : {Pooling::kNone, Pooling::kAverage, Pooling::kMax}) {
    EXPECT_THAT(Pool({1, -2, 3}, pooling, 1), ElementsAre(1, -2, 3));
  }
  EXPECT_THAT(Pool({1, -2, 3}, Pooling::kNone, 5), ElementsAre(1, -2, 3));
}

TEST(PoolScores, RefusesAnEvenKernel) {
  Backend backend(1);
  std::vector<float> scores(4);
  const TensorView view(scores.data(), {1, 4});
  EXPECT_EQ(PoolScores(backend, view, Pooling::kMax, 4, view).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ReduceGroups, ReducesTheQueryHeadsOfEachKvHead) {
  Backend backend(2);
  std::vector<float> in = {1, 2, 3, 6, 5, 4, -1, -2, -5, -4};
  const TensorView view(in.data(), {4, 2});
  std::vector<float> out(4);
  const TensorView reduced(out.data(), {2, 2});
  ASSERT_TRUE(ReduceGroups(backend, view, GroupReduce::kMean, reduced).ok());
  EXPECT_THAT(out, ElementsAre(2, 4, 2, 1));
  ASSERT_TRUE(ReduceGroups(backend, view, GroupReduce::kSum, reduced).ok());
  EXPECT_THAT(out, ElementsAre(4, 8, 4, 2));
  ASSERT_TRUE(ReduceGroups(backend, view, GroupReduce::kMax, reduced).ok());
  EXPECT_THAT(out, ElementsAre(3, 6, 5, 4));
}

TEST(ReduceGroups, NoneKeepsTheRowsAndRefusesFewer) {
  Backend backend(1);
  std::vector<float> in = {1, 2, 3, 4};
  std::vector<float> out(4);
  const TensorView view(in.data(), {2, 2});
  ASSERT_TRUE(ReduceGroups(backend, view, GroupReduce::kNone, TensorView(out.data(), {2, 2})).ok());
  EXPECT_EQ(out, in);
  EXPECT_EQ(ReduceGroups(backend, view, GroupReduce::kNone, TensorView(out.data(), {1, 2})).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(RowNorms, AreTheLengthsOfTheRows) {
  Backend backend(2);
  for (const size_t head_dim : {3, 16, 20, 64}) {
    RandomTensor x({2, 5, head_dim}, 4), norms({2, 5}, 5);
    ASSERT_TRUE(RowNorms(backend, x.view, norms.view).ok());
    for (size_t h = 0; h < 2; ++h) {
      for (size_t i = 0; i < 5; ++i) {
        double square = 0;
        for (size_t d = 0; d < head_dim; ++d) square += std::pow(double{x.view.f32(h, i)[d]}, 2);
        EXPECT_NEAR(norms.view.f32(h)[i], std::sqrt(square), 1e-6 * std::sqrt(square));
      }
    }
  }
  RandomTensor x({2, 5, 8}, 4), norms({2, 4}, 5);
  EXPECT_EQ(RowNorms(backend, x.view, norms.view).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship
