// The small operations of prefill on the GPU: RoPE tables, the window's rows, kept mass, fills.
#include <cmath>
#include <numeric>

#include "kernels/cuda/fill.h"
#include "kernels/cuda/kept_mass.h"
#include "kernels/cuda/rope_table.h"
#include "kernels/cuda/window_rows.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using PrefillStepsTest = DeviceTest;

TEST_F(PrefillStepsTest, RopeTablesAreExactFarFromTheStart) {
  constexpr size_t kHeadDim = 16, kTokens = 3, kFirst = 1'000'000;
  std::vector<double> frequencies;
  for (size_t i = 0; i < kHeadDim / 2; ++i) frequencies.push_back(std::pow(500000.0, -0.125 * i));
  const DeviceArray<double> device(frequencies);
  const DeviceArray<int32_t> positions(std::vector<int32_t>{1'000'002, 5, 1'000'000});
  const DeviceArray<float> in_order(kTokens * kHeadDim), as_told(kTokens * kHeadDim);
  RopeTableArgs args = {.frequencies = device.data(),
                        .out = in_order.data(),
                        .num_tokens = kTokens,
                        .head_dim = kHeadDim,
                        .first_position = kFirst};
  ASSERT_TRUE(FillRopeTable(nullptr, args).ok());
  args.positions = positions.data();
  args.out = as_told.data();
  ASSERT_TRUE(FillRopeTable(nullptr, args).ok());
  const DeviceArray<float> larger(kTokens * kHeadDim);
  args.attention_factor = 1.5;
  args.out = larger.data();
  ASSERT_TRUE(FillRopeTable(nullptr, args).ok());
  const std::vector<float> a = in_order.ToHost(), b = as_told.ToHost();
  for (size_t m = 0; m < kTokens; ++m) {
    for (size_t i = 0; i < kHeadDim / 2; ++i) {
      const double angle = static_cast<double>(kFirst + m) * frequencies[i];
      EXPECT_NEAR(a[m * kHeadDim + 2 * i], std::cos(angle), 1e-7);
      EXPECT_NEAR(a[m * kHeadDim + 2 * i + 1], std::sin(angle), 1e-7);
    }
  }
  const std::vector<float> by_factor = larger.ToHost();
  for (size_t i = 0; i < by_factor.size(); ++i) EXPECT_NEAR(by_factor[i], 1.5f * b[i], 2e-7);
  EXPECT_TRUE(std::equal(a.begin() + 2 * kHeadDim, a.end(), b.begin()));
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + kHeadDim, b.begin() + 2 * kHeadDim));
}

TEST_F(PrefillStepsTest, TheWindowsRowsAreKeptHeadByHead) {
  constexpr size_t kHeads = 3, kHeadDim = 16, kRows = 6, kStride = 5 * kHeadDim, kWindow = 4;
  std::vector<uint16_t> q(kRows * kStride);
  std::iota(q.begin(), q.end(), uint16_t{0});
  std::vector<float> lse(kHeads * 8);
  std::iota(lse.begin(), lse.end(), 0.0f);
  const DeviceArray<uint16_t> device_q(q), window_q(kHeads * kWindow * kHeadDim);
  const DeviceArray<float> device_lse(lse), window_lse(kHeads * kWindow);
  WindowRowsArgs args = {.q = device_q.data(),
                         .lse = device_lse.data(),
                         .window_q = window_q.data(),
                         .window_lse = window_lse.data(),
                         .num_query_heads = kHeads,
                         .head_dim = kHeadDim,
                         .window = kWindow,
                         .from_row = 2,
                         .to_row = 0,
                         .num_rows = 4,
                         .q_row_stride = kStride,
                         .lse_row_stride = 8};
  ASSERT_TRUE(KeepWindowRows(nullptr, args).ok());
  const std::vector<uint16_t> got = window_q.ToHost();
  const std::vector<float> got_lse = window_lse.ToHost();
  for (size_t h = 0; h < kHeads; ++h) {
    for (size_t w = 0; w < kWindow; ++w) {
      EXPECT_EQ(got_lse[h * kWindow + w], lse[h * 8 + 2 + w]);
      for (size_t d = 0; d < kHeadDim; ++d) {
        ASSERT_EQ(got[(h * kWindow + w) * kHeadDim + d], q[(2 + w) * kStride + h * kHeadDim + d]);
      }
    }
  }
  args.to_row = 1;
  EXPECT_EQ(KeepWindowRows(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
}

// The votes of two heads of two query heads each, whose kept tokens are those of the test.
class KeptMassTest : public DeviceTest {
 protected:
  static constexpr size_t kHeads = 2, kGroup = 2, kTokens = 40, kWindow = 3, kStride = 48;
  static constexpr size_t kBegin = 4, kEnd = 37;  // of the middle

  // Every query's attention sums to one: votes of a group to the number of its queries. Those on
  // tokens of the middle are multiplied by `share` before.
  static std::vector<float> Votes(float share) {
    std::vector<float> votes(kHeads * kGroup * kStride, std::nanf(""));
    for (size_t row = 0; row < kHeads * kGroup; ++row) {
      float sum = 0;
      for (size_t i = 0; i < kTokens; ++i) {
        float& vote = votes[row * kStride + i];
        vote = 1.0f + static_cast<float>((i * 7 + row * 3) % 11);
        if (i >= kBegin && i < kEnd) vote *= share;
        sum += vote;
      }
      for (size_t i = 0; i < kTokens; ++i) votes[row * kStride + i] *= kWindow / sum;
    }
    return votes;
  }

  static void ExpectTheShares(const std::vector<float>& votes) {
    const std::vector<std::vector<size_t>> kept_tokens = {{0, 9, 20, 37, 38, 39},
                                                          {5, 6, 7, 11, 37, 38, 39}};
    const std::vector<int32_t> positions = {0, 9, 20, 37, 5, 6, 7, 11, 37}, offsets = {0, 4, 9};
    const DeviceArray<float> device_votes(votes), retained(kHeads), chosen(kHeads);
    const DeviceArray<int32_t> device_positions(positions), device_offsets(offsets);
    ASSERT_TRUE(KeptMass(nullptr, {.votes = device_votes.data(),
                                   .positions = device_positions.data(),
                                   .offsets = device_offsets.data(),
                                   .retained_mass = retained.data(),
                                   .chosen_mass = chosen.data(),
                                   .num_kv_heads = kHeads,
                                   .group = kGroup,
                                   .window = kWindow,
                                   .num_tokens = kTokens,
                                   .num_last = 2,
                                   .middle_begin = kBegin,
                                   .middle_end = kEnd,
                                   .votes_row_stride = kStride})
                    .ok());
    for (size_t h = 0; h < kHeads; ++h) {
      const auto vote = [&](size_t i) {
        return double{votes[2 * h * kStride + i]} + votes[(2 * h + 1) * kStride + i];
      };
      double all = 0, middle = 0, kept = 0, kept_middle = 0;
      for (size_t i = 0; i < kTokens; ++i) all += vote(i);
      for (size_t i = kBegin; i < kEnd; ++i) middle += vote(i);
      for (size_t token : kept_tokens[h]) {
        kept += vote(token);
        if (token >= kBegin && token < kEnd) kept_middle += vote(token);
      }
      EXPECT_NEAR(retained.ToHost()[h], kept / all, 1e-5);
      EXPECT_NEAR(chosen.ToHost()[h], middle > 0 ? kept_middle / middle : 1.0, 1e-5);
    }
  }
};

TEST_F(KeptMassTest, IsTheShareOfTheWindowsAttention) { ExpectTheShares(Votes(1.0f)); }

TEST_F(KeptMassTest, IsTheShareOfAMiddleThatHasNextToNothing) {
  for (float share : {1e-3f, 1e-7f, 1e-30f}) {
    SCOPED_TRACE(share);
    ExpectTheShares(Votes(share));
  }
}

TEST_F(KeptMassTest, IsOneOfAMiddleThatHasNothing) { ExpectTheShares(Votes(0.0f)); }

TEST_F(PrefillStepsTest, RandomWeightsHaveTheirMeanAndDeviation) {
  constexpr size_t kCount = 100'000;
  const DeviceArray<uint16_t> weights(kCount);
  ASSERT_TRUE(FillRandom(nullptr, DType::kF16, weights.data(), kCount, 1.0f, 0.5f, 7).ok());
  double sum = 0, squares = 0;
  for (float x : ValuesOf(DType::kF16, weights.ToHost())) {
    sum += x;
    squares += (x - 1.0) * (x - 1.0);
  }
  // Four standard errors of the mean, and as many of the variance.
  EXPECT_NEAR(sum / kCount, 1.0, 4 * 0.5 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 0.25, 4 * 0.25 / std::sqrt(kCount));
}

}  // namespace
}  // namespace kvship::cuda
