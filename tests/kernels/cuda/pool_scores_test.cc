#include "kernels/cuda/pool_scores.h"

#include <cmath>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

double Reduce(GroupReduce reduce, const std::vector<double>& xs) {
  double total = xs[0];
  for (size_t i = 1; i < xs.size(); ++i) {
    total = reduce == GroupReduce::kMax ? std::max(total, xs[i]) : total + xs[i];
  }
  return reduce == GroupReduce::kMean ? total / static_cast<double>(xs.size()) : total;
}

std::vector<double> Pool(const std::vector<double>& row, Pooling pooling, size_t kernel) {
  if (pooling == Pooling::kNone) return row;
  const auto radius = static_cast<int64_t>(kernel / 2);
  std::vector<double> out(row.size());
  for (int64_t i = 0; i < static_cast<int64_t>(row.size()); ++i) {
    double total = pooling == Pooling::kMax ? -INFINITY : 0;
    for (int64_t j = i - radius; j <= i + radius; ++j) {
      if (j < 0 || j >= static_cast<int64_t>(row.size())) continue;
      total = pooling == Pooling::kMax ? std::max(total, row[j]) : total + row[j];
    }
    out[i] = pooling == Pooling::kMax ? total : total / static_cast<double>(kernel);
  }
  return out;
}

std::vector<double> Expected(const std::vector<float>& votes, const PoolScoresArgs& args) {
  const size_t group = args.num_query_heads / args.num_kv_heads, tokens = args.num_tokens;
  std::vector<double> scores;
  for (size_t h = 0; h < args.num_kv_heads; ++h) {
    std::vector<std::vector<double>> rows;
    for (size_t g = 0; g < group; ++g) {
      const auto begin = votes.begin() + static_cast<int64_t>((h * group + g) * tokens);
      rows.emplace_back(begin, begin + static_cast<int64_t>(tokens));
      for (double& x : rows.back()) x *= args.vote_scale;
      if (args.order == GroupOrder::kAfterPooling)
        rows.back() = Pool(rows.back(), args.pooling, args.kernel);
    }
    std::vector<double> reduced(tokens);
    for (size_t i = 0; i < tokens; ++i) {
      std::vector<double> column;
      for (const auto& row : rows) column.push_back(row[i]);
      reduced[i] = Reduce(args.reduce, column);
    }
    if (args.order == GroupOrder::kBeforePooling)
      reduced = Pool(reduced, args.pooling, args.kernel);
    scores.insert(scores.end(), reduced.begin(), reduced.end());
  }
  return scores;
}

using PoolScoresTest = DeviceTest;

TEST_F(PoolScoresTest, FollowTheDefinitionInEveryCombination) {
  constexpr size_t kQueryHeads = 6, kTokens = 2100;
  std::mt19937 random(1);
  std::exponential_distribution<float> exponential;
  std::vector<float> votes(kQueryHeads * kTokens);
  for (float& x : votes) x = exponential(random);
  const DeviceArray<float> device_votes(votes);
  for (GroupReduce reduce :
       {GroupReduce::kNone, GroupReduce::kMean, GroupReduce::kMax, GroupReduce::kSum}) {
    for (Pooling pooling : {Pooling::kNone, Pooling::kAverage, Pooling::kMax}) {
      for (GroupOrder order : {GroupOrder::kAfterPooling, GroupOrder::kBeforePooling}) {
        for (size_t kernel : {1, 7, 63, 127}) {
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
                                       .order = order,
                                       .vote_scale = 1.0f / 32};
          ASSERT_TRUE(PoolScores(nullptr, args).ok());
          const std::vector<double> expected = Expected(votes, args);
          const std::vector<float> got = scores.ToHost();
          // At most 127 * 3 additions of positive numbers, each rounded once.
          for (size_t i = 0; i < got.size(); ++i) {
            ASSERT_NEAR(got[i], expected[i], 3 * 127 * 0x1p-24 * expected[i]) << "at " << i;
          }
        }
      }
    }
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
