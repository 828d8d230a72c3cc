#include "kernels/cuda/pool_scores.h"

#include <algorithm>
#include <cmath>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

// The same by the CPU's two operations.
std::vector<float> Expected(std::vector<float> votes, const PoolScoresArgs& args) {
  Backend cpu(1);
  for (float& vote : votes) vote *= args.vote_scale;
  const size_t rows = args.num_query_heads, tokens = args.num_tokens;
  std::vector<float> between(rows * tokens), scores(args.num_kv_heads * tokens);
  const TensorView in(votes.data(), {rows, tokens}),
      out(scores.data(), {args.num_kv_heads, tokens});
  const auto pool = [&](TensorView from, TensorView to) {
    EXPECT_TRUE(kvship::PoolScores(cpu, from, args.pooling, args.kernel, to).ok());
  };
  if (args.reduce == GroupReduce::kNone) {
    pool(in, out);
  } else if (args.reduce_before_pooling) {
    const TensorView reduced(between.data(), {args.num_kv_heads, tokens});
    EXPECT_TRUE(ReduceGroups(cpu, in, args.reduce, reduced).ok());
    pool(reduced, out);
  } else {
    const TensorView pooled(between.data(), {rows, tokens});
    pool(in, pooled);
    EXPECT_TRUE(ReduceGroups(cpu, pooled, args.reduce, out).ok());
  }
  return scores;
}

using PoolScoresTest = DeviceTest;

TEST_F(PoolScoresTest, AreTheCpusInEveryCombination) {
  constexpr size_t kQueryHeads = 6, kTokens = 2100;
  std::mt19937 random(1);
  std::exponential_distribution<float> exponential;
  std::vector<float> votes(kQueryHeads * kTokens);
  for (float& x : votes) x = exponential(random);
  const DeviceArray<float> device_votes(votes);
  for (GroupReduce reduce :
       {GroupReduce::kNone, GroupReduce::kMean, GroupReduce::kMax, GroupReduce::kSum}) {
    for (Pooling pooling : {Pooling::kNone, Pooling::kAverage, Pooling::kMax}) {
      for (bool reduce_before_pooling : {false, true}) {
        for (size_t kernel : {1, 7, 63, 127, 129, 701, 5001}) {
          const size_t kv_heads = reduce == GroupReduce::kNone ? kQueryHeads : 2;
          const DeviceArray<float> scores(kv_heads * kTokens);
          const PoolScoresArgs args = {.votes = device_votes.data(),
                                       .scores = scores.data(),
                                       .num_query_heads = kQueryHeads,
                                       .num_kv_heads = kv_heads,
                                       .num_tokens = kTokens,
                                       .votes_row_stride = kTokens,
                                       .scores_row_stride = kTokens,
                                       .pooling = pooling,
                                       .kernel = kernel,
                                       .reduce = reduce,
                                       .reduce_before_pooling = reduce_before_pooling,
                                       .vote_scale = 1.0f / 32};
          ASSERT_TRUE(PoolScores(nullptr, args).ok());
          const std::vector<float> expected = Expected(votes, args);
          const std::vector<float> got = scores.ToHost();
          // Additions of positive numbers, each rounded once on either side.
          const float additions = 3 * static_cast<float>(std::min(kernel, kTokens));
          for (size_t i = 0; i < got.size(); ++i) {
            ASSERT_NEAR(got[i], expected[i], 2 * additions * 0x1p-24f * expected[i]) << "at " << i;
          }
        }
      }
    }
  }
}

TEST_F(PoolScoresTest, MayServeAllHeadsOfALayer) {
  constexpr size_t kTokens = 600, kStride = 604;
  const DeviceArray<float> votes(std::vector<float>(4 * kTokens, 3.0f));
  const DeviceArray<float> scores(3 * kStride);
  ASSERT_TRUE(PoolScores(nullptr, {.votes = votes.data(),
                                   .scores = scores.data(),
                                   .num_query_heads = 4,
                                   .num_kv_heads = 1,
                                   .num_tokens = kTokens,
                                   .votes_row_stride = kTokens,
                                   .scores_row_stride = kStride,
                                   .reduce = GroupReduce::kSum,
                                   .copies = 3})
                  .ok());
  const std::vector<float> got = scores.ToHost();
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(i % kStride < kTokens ? got[i] == 12.0f : std::isnan(got[i])) << i;
  }
}

TEST_F(PoolScoresTest, RefuseAnEvenKernel) {
  const DeviceArray<float> memory(64);
  PoolScoresArgs args = {.votes = memory.data(),
                         .scores = memory.data() + 32,
                         .num_query_heads = 1,
                         .num_kv_heads = 1,
                         .num_tokens = 32,
                         .votes_row_stride = 32,
                         .scores_row_stride = 32,
                         .pooling = Pooling::kMax,
                         .kernel = 4};
  EXPECT_EQ(PoolScores(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
