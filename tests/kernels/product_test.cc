#include "kernels/product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/packed_rows.h"
#include "tests/kernels/targets.h"
#include "tests/kernels/weights.h"

namespace kvship {
namespace {

struct Case {
  std::vector<RandomWeights> weights;
  std::vector<WeightView> views;
  size_t rows = 0;
  size_t cols;
  std::vector<double> reference;      // all rows, as doubles
  std::vector<WeightFormat> formats;  // of each row

  explicit Case(size_t num_cols) : cols(num_cols) {}
  void Add(WeightFormat format, size_t num_rows) {
    weights.emplace_back(100 + weights.size(), format, num_rows, cols);
    views.push_back(weights.back().view);
    rows += num_rows;
    const std::vector<double> more = SlowWeights(weights.back().view);
    reference.insert(reference.end(), more.begin(), more.end());
    formats.insert(formats.end(), num_rows, format);
  }
};

// The error allowed in y[m, n]. float32: each of K products and sums rounds, relative to the sum of
// magnitudes. kFast besides: activations to 1/65024 of the largest in their run, or to bf16, where
// the processor has it.
double Bound(const float* x, const double* w, size_t cols, WeightFormat format,
             Arithmetic arithmetic) {
  const bool fast = arithmetic == Arithmetic::kFast;
  const bool to_bf16 = fast && format == WeightFormat::kBf16 && HasBf16Pairs();
  double bound = 0;
  for (size_t run = 0; run < cols; run += 32) {
    const size_t end = std::min(cols, run + 32);
    double largest_x = 0, sum_w = 0, products = 0;
    for (size_t k = run; k < end; ++k) {
      largest_x = std::max<double>(largest_x, std::abs(x[k]));
      sum_w += std::abs(w[k]);
      products += std::abs(x[k] * w[k]);
    }
    bound += products * static_cast<double>(cols) * 0x1p-23;
    if (to_bf16) bound += 1.01 * 0x1p-9 * products;
    if (fast && IsQuantized(format)) bound += 1.01 / 65024 * largest_x * sum_w;
  }
  return bound;
}

void ExpectProduct(const Case& c, const std::vector<float>& x, const std::vector<float>& y,
                   float before, Arithmetic arithmetic) {
  const size_t num_rows = x.size() / c.cols;
  double sum_error = 0, sum_bound = 0;
  for (size_t m = 0; m < num_rows; ++m) {
    for (size_t n = 0; n < c.rows; ++n) {
      double expected = before;
      for (size_t k = 0; k < c.cols; ++k) {
        expected += x[m * c.cols + k] * c.reference[n * c.cols + k];
      }
      const double bound =
          Bound(&x[m * c.cols], &c.reference[n * c.cols], c.cols, c.formats[n], arithmetic) + 1e-6;
      const double error = std::abs(y[m * c.rows + n] - expected);
      ASSERT_LE(error, bound) << "row " << m << ", weight row " << n;
      sum_error += error;
      sum_bound += bound;
    }
  }
  // Rounding errors of random data cancel: a systematic one would not.
  EXPECT_LE(sum_error, sum_bound / 4);
}

using Param = std::tuple<WeightFormat, Arithmetic>;
class Products : public testing::TestWithParam<Param> {};

INSTANTIATE_TEST_SUITE_P(, Products,
                         testing::Combine(testing::ValuesIn(kAllFormats),
                                          testing::Values(Arithmetic::kFast, Arithmetic::kFloat32)),
                         [](const auto& info) {
                           return std::string(WeightFormatName(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) == Arithmetic::kFast ? "Fast"
                                                                                : "Float32");
                         });

TEST_P(Products, AgreeWithDoubleOnEveryTarget) {
  const auto [format, arithmetic] = GetParam();
  Case c(512);
  c.Add(format, 37);
  c.Add(format, 40);
  Backend backend(2);
  const std::vector<float> x = RandomFloats(5, 21 * c.cols);
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget scope(target);
    const TensorView xv(const_cast<float*>(x.data()), {21, c.cols});
    std::vector<float> y(21 * c.rows, -1.5f);
    const TensorView yv(y.data(), {21, c.rows});
    ProductWeights unpacked;
    ASSERT_TRUE(UnpackWeights(backend, c.views, arithmetic, &unpacked).ok());
    ASSERT_TRUE(Product(backend, xv, unpacked, yv).ok());
    ExpectProduct(c, x, y, 0.0f, arithmetic);
    std::fill(y.begin(), y.end(), -1.5f);
    ASSERT_TRUE(Product(backend, xv, unpacked, yv, /*accumulate=*/true).ok());
    ExpectProduct(c, x, y, -1.5f, arithmetic);

    ASSERT_TRUE(ProductPacked(backend, xv, c.views, arithmetic, yv).ok());
    ExpectProduct(c, x, y, 0.0f, arithmetic);
    std::fill(y.begin(), y.end(), -1.5f);
    ASSERT_TRUE(ProductPacked(backend, xv, c.views, arithmetic, yv, /*accumulate=*/true).ok());
    ExpectProduct(c, x, y, -1.5f, arithmetic);
  }
}

TEST_P(Products, NanMakesItsWholeRowNan) {
  const auto [format, arithmetic] = GetParam();
  Case c(256);
  c.Add(format, 24);
  Backend backend(1);
  const size_t rows = 32;  // one for each place in a run
  std::vector<float> x(rows * c.cols);
  for (size_t m = 0; m < rows; ++m) x[m * c.cols + m] = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget scope(target);
    const TensorView xv(x.data(), {rows, c.cols});
    std::vector<float> y(rows * c.rows), packed(rows * c.rows);
    ProductWeights unpacked;
    ASSERT_TRUE(UnpackWeights(backend, c.views, arithmetic, &unpacked).ok());
    ASSERT_TRUE(Product(backend, xv, unpacked, {y.data(), {rows, c.rows}}).ok());
    ASSERT_TRUE(
        ProductPacked(backend, xv, c.views, arithmetic, {packed.data(), {rows, c.rows}}).ok());
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_TRUE(std::isnan(y[i]) && std::isnan(packed[i])) << "row " << i / c.rows;
    }
  }
}

TEST_P(Products, ARowDependsNeitherOnItsCompanyNorOnThreads) {
  const auto [format, arithmetic] = GetParam();
  Case c(256);
  c.Add(format, 100);
  const size_t most = 60;
  const std::vector<float> x = RandomFloats(6, most * c.cols);
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget scope(target);
    std::vector<float> all(most * c.rows), packed(most * c.rows);
    for (const size_t threads : {3u, 1u}) {
      Backend backend(threads);
      ProductWeights unpacked;
      ASSERT_TRUE(UnpackWeights(backend, c.views, arithmetic, &unpacked).ok());
      for (const size_t rows : {60u, 1u, 2u, 3u, 4u, 5u, 7u, 13u, 50u}) {
        for (const size_t begin : {size_t{0}, most - rows}) {
          const TensorView xv(const_cast<float*>(x.data()) + begin * c.cols, {rows, c.cols});
          std::vector<float> y(rows * c.rows), z(rows * c.rows);
          ASSERT_TRUE(Product(backend, xv, unpacked, TensorView(y.data(), {rows, c.rows})).ok());
          ASSERT_TRUE(
              ProductPacked(backend, xv, c.views, arithmetic, TensorView(z.data(), {rows, c.rows}))
                  .ok());
          if (threads == 3 && rows == most) {
            all = y;
            packed = z;
          }
          const size_t bytes = y.size() * sizeof(float);
          ASSERT_EQ(std::memcmp(y.data(), &all[begin * c.rows], bytes), 0) << rows;
          ASSERT_EQ(std::memcmp(z.data(), &packed[begin * c.rows], bytes), 0) << rows;
        }
      }
    }
  }
}

TEST(Product, TakesColumnsThatFillNoRun) {
  Case mixed(44), pairs(45);
  mixed.Add(WeightFormat::kF32, 9);
  mixed.Add(WeightFormat::kBf16, 3);
  pairs.Add(WeightFormat::kBf16, 12);
  Backend backend(2);
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget scope(target);
    for (const Case* c : {&mixed, &pairs}) {
      const std::vector<float> x = RandomFloats(9, 5 * c->cols);
      std::vector<float> y(5 * c->rows);
      const TensorView xv(const_cast<float*>(x.data()), {5, c->cols}), yv(y.data(), {5, c->rows});
      ProductWeights unpacked;
      ASSERT_TRUE(UnpackWeights(backend, c->views, Arithmetic::kFast, &unpacked).ok());
      ASSERT_TRUE(Product(backend, xv, unpacked, yv).ok());
      // With others bf16 becomes float32.
      ExpectProduct(*c, x, y, 0.0f, c == &mixed ? Arithmetic::kFloat32 : Arithmetic::kFast);
      ASSERT_TRUE(ProductPacked(backend, xv, c->views, Arithmetic::kFast, yv).ok());
      ExpectProduct(*c, x, y, 0.0f, Arithmetic::kFast);
    }
  }
}

TEST(Product, StacksFormatsAndStridesRows) {
  Case c(256);
  c.Add(WeightFormat::kQ4_K, 33);
  c.Add(WeightFormat::kQ6_K, 5);
  c.Add(WeightFormat::kQ4_1, 64);
  Backend backend(2);
  const size_t rows = 8;
  const std::vector<float> x = RandomFloats(10, rows * c.cols);
  std::vector<float> wide_x(rows * 300), wide_y(rows * 200, 7.0f);
  for (size_t m = 0; m < rows; ++m) {
    std::copy_n(&x[m * c.cols], c.cols, &wide_x[m * 300 + 11]);
  }
  const TensorView xv = TensorView(wide_x.data(), {rows, 300}).Slice(1, 11, c.cols);
  const TensorView yv = TensorView(wide_y.data(), {rows, 200}).Slice(1, 50, c.rows);
  const auto narrow = [&] {
    std::vector<float> y;
    for (size_t m = 0; m < rows; ++m) y.insert(y.end(), yv.f32(m), yv.f32(m) + c.rows);
    return y;
  };
  ProductWeights unpacked;
  for (const Arithmetic arithmetic : {Arithmetic::kFast, Arithmetic::kFloat32}) {
    ASSERT_TRUE(UnpackWeights(backend, c.views, arithmetic, &unpacked).ok());
    ASSERT_TRUE(Product(backend, xv, unpacked, yv).ok());
    ExpectProduct(c, x, narrow(), 0.0f, arithmetic);
    ASSERT_TRUE(ProductPacked(backend, xv, c.views, arithmetic, yv).ok());
    ExpectProduct(c, x, narrow(), 0.0f, arithmetic);
  }
  EXPECT_EQ(wide_y[49], 7.0f);
  EXPECT_EQ(wide_y[50 + c.rows], 7.0f);
}

TEST(Product, SumsOfTheLargestWeightsAndActivationsFit) {
  constexpr size_t kCols = 64, kRows = 6;
  std::vector<std::byte> blocks(kCols / 32 * 34, std::byte{127});
  for (size_t block = 0; block < blocks.size(); block += 34) {
    blocks[block] = std::byte{0x00};
    blocks[block + 1] = std::byte{0x3c};  // a scale of 1
  }
  const WeightView weights{blocks.data(), WeightFormat::kQ8_0, 1, kCols};
  std::vector<float> x(kRows * kCols, 1.0f), y(kRows);
  const TensorView xv(x.data(), {kRows, kCols}), yv(y.data(), {kRows, 1});
  Backend backend(1);
  for (const int64_t target : Targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const OnTarget scope(target);
    ProductWeights unpacked;
    ASSERT_TRUE(UnpackWeights(backend, {&weights, 1}, Arithmetic::kFast, &unpacked).ok());
    ASSERT_TRUE(Product(backend, xv, unpacked, yv).ok());
    for (const float sum : y) EXPECT_NEAR(sum, 127 * kCols, 0.01);
    ASSERT_TRUE(ProductPacked(backend, xv, {&weights, 1}, Arithmetic::kFast, yv).ok());
    for (const float sum : y) EXPECT_NEAR(sum, 127 * kCols, 0.01);
  }
}

TEST(Product, RefusesMatricesOfDifferentColumns) {
  const RandomWeights a(1, WeightFormat::kF32, 2, 8), b(2, WeightFormat::kF32, 2, 12);
  const WeightView stacked[] = {a.view, b.view};
  Backend backend(1);
  ProductWeights unpacked;
  const absl::Status status = UnpackWeights(backend, stacked, Arithmetic::kFast, &unpacked);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "stacked: a matrix of 12 columns, wanted 8 like the first");
}

}  // namespace
}  // namespace kvship
