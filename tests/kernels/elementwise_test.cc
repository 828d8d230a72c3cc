#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/product.h"
#include "tests/kernels/targets.h"
#include "tests/kernels/weights.h"

namespace kvship {
namespace {

TEST(Embed, GivesTheTablesRows) {
  const RandomWeights table(3, WeightFormat::kQ8_0, 20, 64);
  const int32_t ids[] = {19, 0, 7};
  std::vector<float> out(3 * 64), all(20 * 64);
  Backend backend(2);
  ASSERT_TRUE(Embed(backend, table.view, ids, TensorView(out.data(), {3, 64})).ok());
  Dequantize(table.view, 0, TensorView(all.data(), {20, 64}));
  for (size_t i = 0; i < 3; ++i) {
    for (size_t c = 0; c < 64; ++c) {
      EXPECT_EQ(out[i * 64 + c], all[static_cast<size_t>(ids[i]) * 64 + c]);
    }
  }
}

TEST(Embed, NamesTheIdOutsideTheTable) {
  const RandomWeights table(3, WeightFormat::kF32, 20, 8);
  std::vector<float> out(8);
  Backend backend(1);
  for (const int32_t id : {-1, 20}) {
    const absl::Status status =
        Embed(backend, table.view, std::span(&id, 1), TensorView(out.data(), {1, 8}));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), "embed: id " + std::to_string(id) + ", wanted 0 to 19");
  }
}

class OnEveryTarget : public testing::TestWithParam<int64_t> {
  const OnTarget scope_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Elementwise, OnEveryTarget, testing::ValuesIn(Targets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

TEST_P(OnEveryTarget, RmsNormAgreesWithDouble) {
  Backend backend(2);
  for (const size_t cols : {1u, 15u, 64u, 577u}) {
    const size_t rows = 150;
    std::vector<float> x = RandomFloats(cols, rows * cols, 3.0);
    const std::vector<float> original = x, weight = RandomFloats(cols + 1, cols);
    const TensorView view(x.data(), {rows, cols});
    ASSERT_TRUE(RmsNorm(backend, view, weight, 1e-5f, view).ok());
    for (size_t m = 0; m < rows; ++m) {
      double squares = 0;
      for (size_t c = 0; c < cols; ++c) {
        squares += static_cast<double>(original[m * cols + c]) * original[m * cols + c];
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5f);
      for (size_t c = 0; c < cols; ++c) {
        const double expected = original[m * cols + c] * scale * weight[c];
        // The sum of squares rounds up to cols times, but its root halves the error.
        const double tolerance = (static_cast<double>(cols) / 2 + 4) * 0x1p-24;
        ASSERT_NEAR(x[m * cols + c], expected, tolerance * std::abs(expected)) << m << " " << c;
      }
    }
  }
}

TEST_P(OnEveryTarget, ABiasIsAddedToEachRow) {
  Backend backend(2);
  for (const size_t cols : {1u, 15u, 64u, 577u}) {
    const size_t rows = 150;
    std::vector<float> x = RandomFloats(cols, rows * cols);
    const std::vector<float> original = x, bias = RandomFloats(cols + 1, cols);
    ASSERT_TRUE(AddBias(backend, bias, TensorView(x.data(), {rows, cols})).ok());
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(x[i], original[i] + bias[i % cols]) << i;
  }
  std::vector<float> x(6);
  EXPECT_EQ(AddBias(backend, x, TensorView(x.data(), {2, 3})).message(),
            "bias: x: [2, 3], wanted [M, C]");
}

TEST_P(OnEveryTarget, RmsNormOfHeadsIsThatOfEachHeadAsARow) {
  Backend backend(2);
  constexpr size_t kRows = 5, kHeads = 6, kCols = 20;
  std::vector<float> x = RandomFloats(1, kRows * kHeads * kCols);
  std::vector<float> as_rows = x;
  const std::vector<float> weight = RandomFloats(2, kCols);
  const TensorView rows(as_rows.data(), {kRows * kHeads, kCols});
  ASSERT_TRUE(RmsNorm(backend, rows, weight, 1e-5f, rows).ok());
  // All heads but the last, which stays as it is.
  const TensorView heads = TensorView(x.data(), {kRows, kHeads, kCols}).Slice(1, 0, kHeads - 1);
  const std::vector<float> original = x;
  ASSERT_TRUE(RmsNorm(backend, heads, weight, 1e-5f, heads).ok());
  for (size_t i = 0; i < x.size(); ++i) {
    const bool normed = i / kCols % kHeads < kHeads - 1;
    ASSERT_EQ(x[i], normed ? as_rows[i] : original[i]);
  }
}

TEST_P(OnEveryTarget, SiluMulAgreesWithDoubleFromOneEndToTheOther) {
  Backend backend(2);
  const size_t rows = 40, cols = 1001;
  std::vector<float> gate_up = RandomFloats(11, rows * 2 * cols, 20.0), out(rows * cols);
  gate_up[0] = -1e30f;
  gate_up[1] = 1e30f;
  gate_up[2] = -100.0f;
  gate_up[3] = 0.0f;
  ASSERT_TRUE(SiluMul(backend, TensorView(gate_up.data(), {rows, 2 * cols}),
                      TensorView(out.data(), {rows, cols}))
                  .ok());
  for (size_t m = 0; m < rows; ++m) {
    for (size_t c = 0; c < cols; ++c) {
      const double gate = gate_up[m * 2 * cols + c], up = gate_up[m * 2 * cols + cols + c];
      if (m == 0 && c == 0) {
        continue;  // its own test below
      }
      const double expected = gate / (1 + std::exp(-gate)) * up;
      // exp() is good to 2 units, and sum, quotient and product add a half each; past -88 the
      // result is below 1e-34 and counts as zero.
      ASSERT_NEAR(out[m * cols + c], expected, 4 * 0x1p-23 * std::abs(expected) + 1e-34)
          << gate << " " << up;
    }
  }
}

TEST(SiluMul, OfAHugeNegativeGateIsNotANumberGoneWrong) {
  Backend backend(1);
  float gate_up[] = {-1e4f, 2.0f}, out = 1;
  ASSERT_TRUE(SiluMul(backend, TensorView(gate_up, {1, 2}), TensorView(&out, {1, 1})).ok());
  EXPECT_NEAR(out, 0.0f, 1e-33f);
}

void ExpectTurns(RopePairs pairs) {
  Backend backend(2);
  for (const size_t dim : {2u, 24u, 64u}) {
    const size_t rows = 300, heads = 3;
    // Rows of x are wider than its heads, as Q is beside K and V.
    const size_t stride = heads * dim + 5;
    std::vector<float> x = RandomFloats(1, rows * stride), cos_sin(rows * dim);
    const std::vector<float> before = x;
    for (size_t m = 0; m < rows; ++m) {
      for (size_t i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<double>(m) / static_cast<double>(i + 1);
        cos_sin[m * dim + 2 * i] = static_cast<float>(std::cos(angle));
        cos_sin[m * dim + 2 * i + 1] = static_cast<float>(std::sin(angle));
      }
    }
    const TensorView view =
        TensorView(x.data(), {rows, stride}).Slice(1, 0, heads * dim).SplitLast(heads);
    ASSERT_TRUE(Rope(backend, view, TensorView(cos_sin.data(), {rows, dim}), pairs).ok());
    for (size_t m = 0; m < rows; ++m) {
      for (size_t i = 0; i < heads * dim / 2; ++i) {
        const size_t head = i / (dim / 2), pair = i % (dim / 2);
        const bool halves = pairs == RopePairs::kHalves;
        const size_t first = m * stride + head * dim + (halves ? pair : 2 * pair);
        const size_t second = first + (halves ? dim / 2 : 1);
        const double angle = static_cast<double>(m) / static_cast<double>(pair + 1);
        const double a = before[first], b = before[second];
        ASSERT_NEAR(x[first], a * std::cos(angle) - b * std::sin(angle), 4e-7);
        ASSERT_NEAR(x[second], a * std::sin(angle) + b * std::cos(angle), 4e-7);
      }
      for (size_t c = heads * dim; c < stride; ++c) {
        ASSERT_EQ(x[m * stride + c], before[m * stride + c]);
      }
    }
  }
}

TEST_P(OnEveryTarget, RopeTurnsHalvesByTheirAngles) { ExpectTurns(RopePairs::kHalves); }
TEST_P(OnEveryTarget, RopeTurnsNeighboursByTheirAngles) { ExpectTurns(RopePairs::kAdjacent); }

}  // namespace
}  // namespace kvship
