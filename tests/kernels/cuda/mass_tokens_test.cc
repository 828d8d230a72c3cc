#include "kernels/cuda/mass_tokens.h"

#include <cmath>
#include <span>

#include "base/random.h"
#include "kernels/scores.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr size_t kHeads = 3, kGroup = 2, kWindow = 4;

// A layer whose queries' attention sums to one over T tokens, of which n have scores.
struct MassCase {
  MassCase(size_t tokens, size_t n)
      : tokens(tokens), n(n), votes(kHeads * kGroup * tokens), scores(kHeads * n) {
    for (size_t row = 0; row < kHeads * kGroup; ++row) {
      double sum = 0;
      for (size_t i = 0; i < tokens; ++i) sum += Raw(row, i);
      for (size_t i = 0; i < tokens; ++i) {
        votes[row * tokens + i] = static_cast<float>(Raw(row, i) * kWindow / sum);
      }
    }
    // Not in the order of the votes, and in plateaus as max pooling makes them.
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = static_cast<float>(RandomBits(2, i / 5) % 50);
    }
  }

  static double Raw(size_t row, size_t i) { return std::exp(6 * UniformUnit(row, i)); }

  size_t Wanted(size_t h, double share, size_t least, size_t most) const {
    const auto vote = [&](size_t i) {
      return double{votes[2 * h * tokens + i]} + votes[(2 * h + 1) * tokens + i];
    };
    double sum = 0;
    for (size_t i = n; i < tokens; ++i) sum += vote(i);
    size_t taken = 0;
    for (int32_t i : RankedPositions(std::span(&scores[h * n], n), most)) {
      if (taken >= least && sum >= share * kGroup * kWindow) break;
      sum += vote(static_cast<size_t>(i));
      ++taken;
    }
    return taken;
  }

  void Expect(double share, size_t least, size_t most) const {
    SCOPED_TRACE(testing::Message() << "share " << share << ", " << least << " to " << most);
    constexpr size_t kAppended = 3;
    const DeviceArray<float> device_votes(votes), device_scores(scores);
    const DeviceArray<int32_t> offsets(kHeads + 1);
    const DeviceArray<std::byte> workspace(
        std::vector<std::byte>(MassTokensWorkspaceBytes(kHeads)));
    std::vector<int32_t> expected = {0};
    for (size_t h = 0; h < kHeads; ++h) {
      expected.push_back(expected.back() +
                         static_cast<int32_t>(Wanted(h, share, least, most) + kAppended));
    }
    for (int call = 0; call < 2; ++call) {  // the second in the workspace as the first left it
      ASSERT_TRUE(MassTokens(nullptr, {.scores = device_scores.data(),
                                       .votes = device_votes.data(),
                                       .offsets = offsets.data(),
                                       .workspace = workspace.data(),
                                       .num_kv_heads = kHeads,
                                       .group = kGroup,
                                       .window = kWindow,
                                       .num_tokens = tokens,
                                       .num_scores = n,
                                       .scores_row_stride = n,
                                       .votes_row_stride = tokens,
                                       .least = least,
                                       .most = most,
                                       .num_appended = kAppended,
                                       .target_share = share})
                      .ok());
      ASSERT_EQ(offsets.ToHost(), expected);
    }
  }

  size_t tokens, n;
  std::vector<float> votes, scores;
};

using MassTokensTest = DeviceTest;

TEST_F(MassTokensTest, AreTheFewestThatReachTheTarget) {
  for (const auto& [tokens, n] : {std::pair{300, 284}, {3000, 2990}, {40, 40}}) {
    const MassCase c(tokens, n);
    for (double share : {0.001, 0.1, 0.5, 0.9, 0.99}) c.Expect(share, 0, n);
  }
}

TEST_F(MassTokensTest, AreWithinTheirBounds) {
  const MassCase c(300, 284);
  c.Expect(0.001, 20, 284);
  c.Expect(0.9, 0, 25);
  c.Expect(1.5, 0, 284);  // never reached
  c.Expect(0.5, 30, 30);
  c.Expect(0.5, 0, 0);
}

TEST_F(MassTokensTest, TokensWithoutAScoreComeLast) {
  MassCase c(300, 284);
  for (size_t i = 0; i < c.scores.size(); i += 3) c.scores[i] = NAN;
  for (size_t i = 1; i < c.scores.size(); i += 7) c.scores[i] = -INFINITY;
  for (size_t i = 0; i < kHeads; ++i) c.scores[i * c.n] = INFINITY;
  for (double share : {0.3, 0.8, 0.99}) c.Expect(share, 0, c.n);
}

TEST_F(MassTokensTest, RejectsBoundsThatAreNotInOrder) {
  EXPECT_EQ(MassTokens(nullptr, {.num_kv_heads = 1,
                                 .group = 1,
                                 .window = 1,
                                 .num_tokens = 8,
                                 .num_scores = 8,
                                 .scores_row_stride = 8,
                                 .votes_row_stride = 8,
                                 .least = 5,
                                 .most = 4})
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
