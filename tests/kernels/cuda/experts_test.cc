#include "kernels/cuda/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/expert_product.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr DType kTypes[] = {DType::kF16, DType::kBf16};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using ExpertsTest = DeviceTest;

struct Choices {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
};

Choices Choose(const std::vector<float>& logits, size_t num_experts, size_t experts_per_token,
               bool normalizes) {
  const size_t num_tokens = logits.size() / num_experts;
  const DeviceArray<float> device_logits(logits), weights(num_tokens * experts_per_token);
  const DeviceArray<uint32_t> experts(num_tokens * experts_per_token);
  const absl::Status status = ChooseExperts(nullptr, {.logits = device_logits.data(),
                                                      .experts = experts.data(),
                                                      .weights = weights.data(),
                                                      .num_tokens = num_tokens,
                                                      .num_experts = num_experts,
                                                      .experts_per_token = experts_per_token,
                                                      .normalizes = normalizes});
  EXPECT_TRUE(status.ok()) << status;
  return {experts.ToHost(), weights.ToHost()};
}

TEST_F(ExpertsTest, TheLargestLogitsChooseOfEqualOnesTheFirst) {
  constexpr size_t kTokens = 37;
  for (const size_t num_experts : {2, 8, 33, 128, 512}) {
    // Whole numbers: many are equal.
    std::mt19937 random(1);
    std::vector<float> logits(kTokens * num_experts);
    for (float& logit : logits) logit = static_cast<float>(random() % 12) - 6;
    for (const size_t k : {size_t{1}, size_t{2}, std::min<size_t>(8, num_experts)}) {
      for (const bool normalizes : {true, false}) {
        const Choices got = Choose(logits, num_experts, k, normalizes);
        for (size_t m = 0; m < kTokens; ++m) {
          const float* row = logits.data() + m * num_experts;
          std::vector<uint32_t> order(num_experts);
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(),
                           [&](uint32_t a, uint32_t b) { return row[a] > row[b]; });
          double sum = 0;
          for (size_t j = 0; j < (normalizes ? k : num_experts); ++j)
            sum += std::exp(row[order[j]]);
          for (size_t j = 0; j < k; ++j) {
            ASSERT_EQ(got.experts[m * k + j], order[j]) << m << " " << j;
            ASSERT_NEAR(got.weights[m * k + j], std::exp(row[order[j]]) / sum, 1e-6);
          }
        }
      }
    }
  }
}

TEST_F(ExpertsTest, NanIsTheSmallestLogitAndChoosesAnExpertAllTheSame) {
  const Choices got =
      Choose({kNan, -1, kNan, 2, kNan, kNan, kNan, kNan, 3, kNan, 1, 2}, 4, 3, true);
  EXPECT_EQ(got.experts, (std::vector<uint32_t>{3, 1, 0, 0, 1, 2, 0, 3, 2}));
  for (const float weight : got.weights) EXPECT_TRUE(std::isnan(weight));
}

TEST_F(ExpertsTest, RowsLieExpertByExpertInTheOrderOfTheirTokens) {
  // More choices than a block looks at in one go, and fewer than there are experts.
  for (const size_t num_tokens : {1, 5, 1100}) {
    for (const size_t num_experts : {9, 128}) {
      for (const uint32_t multiple : {1, 64}) {
        constexpr size_t kPerToken = 8;
        std::mt19937 random(3);
        std::vector<uint32_t> experts;
        for (size_t m = 0; m < num_tokens; ++m) {
          std::vector<uint32_t> all(num_experts - 1);  // nobody wants the last
          std::iota(all.begin(), all.end(), 0);
          std::shuffle(all.begin(), all.end(), random);
          experts.insert(experts.end(), all.begin(), all.begin() + kPerToken);
        }
        const DeviceArray<uint32_t> device_experts(experts), positions(experts.size());
        const DeviceArray<ExpertRows> runs(num_experts);
        const GroupByExpertArgs args = {.experts = device_experts.data(),
                                        .positions = positions.data(),
                                        .runs = runs.data(),
                                        .num_tokens = num_tokens,
                                        .num_experts = num_experts,
                                        .experts_per_token = kPerToken,
                                        .multiple = multiple};
        ASSERT_TRUE(GroupByExpert(nullptr, args).ok());

        std::vector<uint32_t> expected(experts.size());
        std::vector<ExpertRows> with_rows, without;
        uint32_t next = 0;
        for (uint32_t expert = 0; expert < num_experts; ++expert) {
          next = (next + multiple - 1) / multiple * multiple;
          const uint32_t first = next;
          for (size_t i = 0; i < experts.size(); ++i) {
            if (experts[i] == expert) expected[i] = next++;
          }
          (next > first ? with_rows : without).push_back({expert, first, next - first});
        }
        EXPECT_LE((next + multiple - 1) / multiple * multiple, MostGroupedRows(args));
        EXPECT_LE(with_rows.size(), MostActiveExperts(args));
        with_rows.insert(with_rows.end(), without.begin(), without.end());
        EXPECT_EQ(positions.ToHost(), expected);
        const std::vector<ExpertRows> got = runs.ToHost();
        for (size_t i = 0; i < num_experts; ++i) {
          EXPECT_EQ(got[i].expert, with_rows[i].expert);
          EXPECT_EQ(got[i].first, with_rows[i].first);
          EXPECT_EQ(got[i].count, with_rows[i].count);
        }
      }
    }
  }
}

TEST_F(ExpertsTest, RowsComeBackAddedUpByTheirWeights) {
  constexpr size_t kTokens = 5, kPerToken = 3, kWidth = 72, kRows = 20;
  for (const DType dtype : kTypes) {
    const Tensor16 x = RandomTensor(dtype, kTokens * kWidth, 1);
    const Tensor16 rows = RandomTensor(dtype, kRows * kWidth, 2);
    std::vector<uint32_t> positions(kRows);
    std::iota(positions.begin(), positions.end(), 0);
    std::shuffle(positions.begin(), positions.end(), std::mt19937(4));
    positions.resize(kTokens * kPerToken);
    std::vector<float> weights(kTokens * kPerToken);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = 1.0f / static_cast<float>(i + 1);
    const DeviceArray<uint16_t> device_x(x.bits), device_rows(rows.bits), spread(kRows * kWidth);
    const DeviceArray<uint32_t> device_positions(positions);
    const DeviceArray<float> device_weights(weights);
    ASSERT_TRUE(SpreadRows(nullptr, {.x = device_x.data(),
                                     .positions = device_positions.data(),
                                     .rows = spread.data(),
                                     .num_tokens = kTokens,
                                     .experts_per_token = kPerToken,
                                     .width = kWidth})
                    .ok());
    ASSERT_TRUE(CollectRows(nullptr, {.rows = device_rows.data(),
                                      .positions = device_positions.data(),
                                      .weights = device_weights.data(),
                                      .x = device_x.data(),
                                      .dtype = dtype,
                                      .num_tokens = kTokens,
                                      .experts_per_token = kPerToken,
                                      .width = kWidth})
                    .ok());
    const std::vector<uint16_t> got_spread = spread.ToHost(), got = device_x.ToHost();
    for (size_t m = 0; m < kTokens; ++m) {
      for (size_t c = 0; c < kWidth; ++c) {
        double sum = x.values[m * kWidth + c];
        for (size_t j = m * kPerToken; j < (m + 1) * kPerToken; ++j) {
          ASSERT_EQ(got_spread[positions[j] * kWidth + c], x.bits[m * kWidth + c]);
          sum += double{weights[j]} * rows.values[positions[j] * kWidth + c];
        }
        ASSERT_NEAR(ValueOf(dtype, got[m * kWidth + c]), sum,
                    (UnitRoundoff(dtype) + 1e-5) * std::abs(sum) + 1e-6);
      }
    }
  }
}

TEST_F(ExpertsTest, RowsAreMultipliedWithTheirExpertsWeights) {
  constexpr size_t kExperts = 5, kAllRows = 140;
  const std::vector<ExpertRows> runs = {{0, 0, 1}, {2, 8, 33}, {3, 41, 70}, {4, 112, 8}, {1, 0, 0}};
  struct Shape {
    size_t rows, cols;
  };
  for (const DType dtype : kTypes) {
    for (const Shape shape : {Shape{24, 8}, Shape{40, 72}, Shape{16, 520}}) {
      const Tensor16 x = RandomTensor(dtype, kAllRows * shape.cols, 1);
      const Tensor16 weights = RandomTensor(dtype, kExperts * shape.rows * shape.cols, 2);
      const DeviceArray<uint16_t> device_x(x.bits), device_weights(weights.bits);
      const DeviceArray<uint16_t> out(kAllRows * shape.rows), alone(kAllRows * shape.rows);
      ExpertProductArgs args = {.x = device_x.data(),
                                .weights = device_weights.data(),
                                .out = out.data(),
                                .dtype = dtype,
                                .num_runs = runs.size(),
                                .rows = shape.rows,
                                .cols = shape.cols};
      const DeviceArray<ExpertRows> device_runs(runs), one(std::vector<ExpertRows>{{3, 100, 1}});
      args.runs = device_runs.data();
      ASSERT_TRUE(ExpertProduct(nullptr, args).ok());
      args.runs = one.data();
      args.num_runs = 1;
      args.out = alone.data();
      ASSERT_TRUE(ExpertProduct(nullptr, args).ok());

      const std::vector<uint16_t> got = out.ToHost(), got_alone = alone.ToHost();
      std::vector<bool> written(kAllRows, false);
      for (const ExpertRows& run : runs) {
        for (size_t p = run.first; p < run.first + run.count; ++p) {
          written[p] = true;
          for (size_t n = 0; n < shape.rows; ++n) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < shape.cols; ++k) {
              const double product = double{x.values[p * shape.cols + k]} *
                                     weights.values[(run.expert * shape.rows + n) * shape.cols + k];
              sum += product;
              size += std::abs(product);
            }
            ASSERT_NEAR(ValueOf(dtype, got[p * shape.rows + n]), sum,
                        UnitRoundoff(dtype) * std::abs(sum) + 1e-6 * size)
                << p << " " << n;
          }
        }
      }
      for (size_t i = 0; i < got.size(); ++i) {
        const size_t p = i / shape.rows;
        ASSERT_TRUE(written[p] || got[i] == 0xffff) << p;
        ASSERT_EQ(got_alone[i], p == 100 ? got[i] : 0xffff);
      }
    }
  }
}

// Kernels that are started while the one before them runs: one that did not wait would read what an
// earlier round has left.
TEST_F(ExpertsTest, AChainOfKernelsGivesTheBitsOfOneAfterTheOther) {
  constexpr size_t kTokens = 24, kExperts = 8, kPerToken = 2, kWidth = 64, kInner = 96,
                   kRounds = 30;
  constexpr size_t kChoices = kTokens * kPerToken;
  constexpr DType kDType = DType::kBf16;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> all_logits(kRounds * kTokens * kExperts);
  for (float& logit : all_logits) logit = normal(random);
  const DeviceArray<float> logits(all_logits), weights(kChoices);
  const DeviceArray<uint32_t> experts(kChoices), positions(kChoices);
  const DeviceArray<ExpertRows> runs(kExperts);
  const DeviceArray<uint16_t> x(RandomTensor(kDType, kTokens * kWidth, 1).bits);
  const DeviceArray<uint16_t> gate_up_weights(
      RandomTensor(kDType, kExperts * 2 * kInner * kWidth, 2, 0.1f).bits);
  const DeviceArray<uint16_t> down_weights(
      RandomTensor(kDType, kExperts * kWidth * kInner, 3, 0.1f).bits);
  const DeviceArray<uint16_t> rows(kChoices * kWidth), gate_up(kChoices * 2 * kInner);
  const DeviceArray<uint16_t> gated(kChoices * kInner);
  const std::vector<uint16_t> residual(kTokens * kWidth, 0);
  const auto run = [&](bool waits) {
    const DeviceArray<uint16_t> out(residual);
    const auto next = [&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_TRUE(!waits || cudaDeviceSynchronize() == cudaSuccess);
    };
    for (size_t round = 0; round < kRounds; ++round) {
      next(ChooseExperts(nullptr, {.logits = logits.data() + round * kTokens * kExperts,
                                   .experts = experts.data(),
                                   .weights = weights.data(),
                                   .num_tokens = kTokens,
                                   .num_experts = kExperts,
                                   .experts_per_token = kPerToken}));
      next(GroupByExpert(nullptr, {.experts = experts.data(),
                                   .positions = positions.data(),
                                   .runs = runs.data(),
                                   .num_tokens = kTokens,
                                   .num_experts = kExperts,
                                   .experts_per_token = kPerToken}));
      next(SpreadRows(nullptr, {.x = x.data(),
                                .positions = positions.data(),
                                .rows = rows.data(),
                                .num_tokens = kTokens,
                                .experts_per_token = kPerToken,
                                .width = kWidth}));
      next(ExpertProduct(nullptr, {.x = rows.data(),
                                   .weights = gate_up_weights.data(),
                                   .runs = runs.data(),
                                   .out = gate_up.data(),
                                   .dtype = kDType,
                                   .num_runs = kExperts,
                                   .rows = 2 * kInner,
                                   .cols = kWidth}));
      next(SiluMul(nullptr, {.gate_up = gate_up.data(),
                             .out = gated.data(),
                             .dtype = kDType,
                             .num_tokens = kChoices,
                             .width = kInner}));
      next(ExpertProduct(nullptr, {.x = gated.data(),
                                   .weights = down_weights.data(),
                                   .runs = runs.data(),
                                   .out = rows.data(),
                                   .dtype = kDType,
                                   .num_runs = kExperts,
                                   .rows = kWidth,
                                   .cols = kInner}));
      next(CollectRows(nullptr, {.rows = rows.data(),
                                 .positions = positions.data(),
                                 .weights = weights.data(),
                                 .x = out.data(),
                                 .dtype = kDType,
                                 .num_tokens = kTokens,
                                 .experts_per_token = kPerToken,
                                 .width = kWidth}));
    }
    return out.ToHost();
  };
  const std::vector<uint16_t> expected = run(/*waits=*/true);
  EXPECT_NE(expected, residual);
  EXPECT_EQ(run(/*waits=*/false), expected);
}

TEST_F(ExpertsTest, RefusesWhatItIsNotMadeFor) {
  EXPECT_TRUE(absl::IsInvalidArgument(ChooseExperts(
      nullptr, {.num_tokens = 1, .num_experts = kMostExperts + 1, .experts_per_token = 1})));
  EXPECT_TRUE(absl::IsInvalidArgument(
      ChooseExperts(nullptr, {.num_tokens = 1, .num_experts = 4, .experts_per_token = 5})));
  EXPECT_TRUE(absl::IsInvalidArgument(
      GroupByExpert(nullptr, {.num_tokens = 0, .num_experts = 4, .experts_per_token = 1})));
  EXPECT_TRUE(absl::IsInvalidArgument(GroupByExpert(
      nullptr, {.num_tokens = 1, .num_experts = 4, .experts_per_token = 1, .multiple = 0})));
  EXPECT_TRUE(absl::IsInvalidArgument(
      SpreadRows(nullptr, {.num_tokens = 1, .experts_per_token = 1, .width = 12})));
  EXPECT_TRUE(absl::IsInvalidArgument(
      CollectRows(nullptr, {.num_tokens = 0, .experts_per_token = 1, .width = 16})));
  EXPECT_TRUE(
      absl::IsInvalidArgument(ExpertProduct(nullptr, {.num_runs = 1, .rows = 12, .cols = 8})));
}

}  // namespace
}  // namespace kvship::cuda
