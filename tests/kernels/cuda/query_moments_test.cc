#include "kernels/cuda/query_moments.h"

#include <cmath>

#include "kernels/moments.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using QueryMomentsTest = DeviceTest;

constexpr size_t kRows = 75, kHeads = 3;

// Queries as they come from the product: rows of kHeads heads, and two more that are no queries.
struct Queries {
  Queries(DType dtype, size_t head_dim)
      : d(head_dim), row((kHeads + 2) * d), tensor(RandomTensor(dtype, kRows * row, 1)) {
    for (size_t i = 0; i < tensor.bits.size(); ++i) {  // a mean far from 0 beside their spread
      tensor.bits[i] = BitsOf(dtype, tensor.values[i] + static_cast<float>(i % 7));
      tensor.values[i] = ValueOf(dtype, tensor.bits[i]);
    }
  }
  size_t d, row;
  Tensor16 tensor;
};

struct Moments {
  std::vector<double> sums, products;
};

Moments AddOnDevice(const Queries& queries, size_t block_rows, const void* norm = nullptr) {
  const DeviceArray<uint16_t> q(queries.tensor.bits);
  const DeviceArray<double> sums(std::vector<double>(kHeads * queries.d));
  const DeviceArray<double> products(std::vector<double>(kHeads * queries.d * queries.d));
  for (size_t begin = 0; begin < kRows; begin += block_rows) {
    EXPECT_EQ(AddQueryMoments(nullptr, {.q = q.data() + begin * queries.row,
                                        .norm = norm,
                                        .sums = sums.data(),
                                        .products = products.data(),
                                        .dtype = queries.tensor.dtype,
                                        .num_rows = std::min(block_rows, kRows - begin),
                                        .num_query_heads = kHeads,
                                        .head_dim = queries.d,
                                        .q_row_stride = queries.row}),
              absl::OkStatus());
  }
  return {sums.ToHost(), products.ToHost()};
}

TEST_F(QueryMomentsTest, AreTheCpusToTheBitInWhateverBlocks) {
  for (DType dtype : {DType::kF16, DType::kBf16}) {
    for (size_t d : {64, 128}) {
      Queries queries(dtype, d);
      Backend backend(1);
      Moments expected{std::vector<double>(kHeads * d), std::vector<double>(kHeads * d * d)};
      const TensorView all(queries.tensor.values.data(), {kRows, kHeads + 2, d});
      ASSERT_TRUE(
          AddMoments(backend, all.Slice(1, 0, kHeads), expected.sums, expected.products).ok());
      for (size_t block_rows : {kRows, size_t{33}}) {
        SCOPED_TRACE(testing::Message() << "D " << d << " blocks of " << block_rows);
        const Moments got = AddOnDevice(queries, block_rows);
        EXPECT_EQ(got.sums, expected.sums);
        for (size_t i = 0; i < got.products.size(); ++i) {
          if (i % d < i / d % d) continue;
          ASSERT_EQ(got.products[i], expected.products[i]) << i;
        }
      }
    }
  }
}

TEST_F(QueryMomentsTest, AreOfNormedQueriesWhereTheModelNormsThem) {
  for (size_t d : {64, 128}) {
    Queries queries(DType::kBf16, d);
    const Tensor16 weight = RandomTensor(DType::kBf16, d, 2);
    const DeviceArray<uint16_t> device_weight(weight.bits);
    const Moments got = AddOnDevice(queries, kRows, device_weight.data());
    for (size_t h = 0; h < kHeads; ++h) {
      std::vector<double> sums(d), size(d), products(d * d), products_size(d * d);
      for (size_t m = 0; m < kRows; ++m) {
        const float* q = &queries.tensor.values[m * queries.row + h * d];
        double squares = 0;
        for (size_t a = 0; a < d; ++a) squares += double{q[a]} * q[a];
        const double factor = 1 / std::sqrt(squares / static_cast<double>(d) + 1e-5);
        const auto normed = [&](size_t a) { return q[a] * factor * weight.values[a]; };
        for (size_t a = 0; a < d; ++a) {
          sums[a] += normed(a);
          size[a] += std::abs(normed(a));
          for (size_t b = a; b < d; ++b) {
            products[a * d + b] += normed(a) * normed(b);
            products_size[a * d + b] += std::abs(normed(a) * normed(b));
          }
        }
      }
      // Each element is off by the roundings of the norm: a sum of D squares, a root, two products.
      const double roundings = (static_cast<double>(d) / 8 + 8) * 0x1p-24;
      for (size_t a = 0; a < d; ++a) {
        ASSERT_NEAR(got.sums[h * d + a], sums[a], roundings * size[a]);
        for (size_t b = a; b < d; ++b) {
          ASSERT_NEAR(got.products[(h * d + a) * d + b], products[a * d + b],
                      2 * roundings * products_size[a * d + b]);
        }
      }
    }
  }
}

// R by its definition, a matrix.
std::vector<double> TurnMatrix(const std::vector<double>& turns, RopePairs pairs) {
  const size_t d = turns.size();
  std::vector<double> matrix(d * d);
  for (size_t p = 0; p < d / 2; ++p) {
    const size_t a = pairs == RopePairs::kHalves ? p : 2 * p;
    const size_t b = pairs == RopePairs::kHalves ? p + d / 2 : 2 * p + 1;
    matrix[a * d + a] = matrix[b * d + b] = turns[2 * p];
    matrix[b * d + a] = turns[2 * p + 1];
    matrix[a * d + b] = -turns[2 * p + 1];
  }
  return matrix;
}

std::vector<double> Multiply(const std::vector<double>& a, const std::vector<double>& b, size_t d) {
  std::vector<double> product(d * d);
  for (size_t i = 0; i < d; ++i) {
    for (size_t k = 0; k < d; ++k) {
      for (size_t j = 0; j < d; ++j) product[i * d + j] += a[i * d + k] * b[k * d + j];
    }
  }
  return product;
}

TEST_F(QueryMomentsTest, AreTurnedByTheMeanRotation) {
  constexpr size_t d = 64;
  std::vector<double> turns;
  for (size_t p = 0; p < d / 2; ++p) {
    const double length = 1 / (1 + 0.1 * static_cast<double>(p));
    turns.insert(turns.end(), {length * std::cos(p), length * std::sin(p)});
  }
  const Queries queries(DType::kF16, d);
  const Moments moments = AddOnDevice(queries, kRows);
  const DeviceArray<double> sums(moments.sums), products(moments.products), device_turns(turns);
  for (RopePairs pairs : {RopePairs::kHalves, RopePairs::kAdjacent}) {
    const DeviceArray<float> mean(kHeads * d), covariance(kHeads * d * d);
    ASSERT_TRUE(TurnMoments(nullptr, {.sums = sums.data(),
                                      .products = products.data(),
                                      .turns = device_turns.data(),
                                      .mean = mean.data(),
                                      .covariance = covariance.data(),
                                      .pairs = pairs,
                                      .num_queries = kRows,
                                      .num_query_heads = kHeads,
                                      .head_dim = d})
                    .ok());
    const std::vector<float> got_mean = mean.ToHost(), got_covariance = covariance.ToHost();
    const std::vector<double> r = TurnMatrix(turns, pairs);
    std::vector<double> transposed(d * d);
    for (size_t i = 0; i < d * d; ++i) transposed[i] = r[i % d * d + i / d];
    for (size_t h = 0; h < kHeads; ++h) {
      const auto mu = [&](size_t a) { return moments.sums[h * d + a] / kRows; };
      std::vector<double> sigma(d * d);
      for (size_t a = 0; a < d; ++a) {
        double turned = 0;
        for (size_t b = 0; b < d; ++b) {
          turned += r[a * d + b] * mu(b);
          sigma[a * d + b] =
              moments.products[(h * d + std::min(a, b)) * d + std::max(a, b)] / kRows -
              mu(a) * mu(b);
        }
        ASSERT_NEAR(got_mean[h * d + a], turned, 1e-6);  // of size 3, rounded to float
      }
      const std::vector<double> expected = Multiply(Multiply(r, sigma, d), transposed, d);
      for (size_t i = 0; i < d * d; ++i) {
        ASSERT_NEAR(got_covariance[h * d * d + i], expected[i], 1e-6) << i;  // of size 1
      }
    }
  }
}

TEST_F(QueryMomentsTest, RefuseWhatTheyCannotCompute) {
  const DeviceArray<double> memory(1024);
  AddQueryMomentsArgs args = {.q = memory.data(),
                              .sums = memory.data(),
                              .products = memory.data(),
                              .num_rows = 1,
                              .num_query_heads = 2,
                              .head_dim = 64,
                              .q_row_stride = 120};
  EXPECT_EQ(AddQueryMoments(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  args.head_dim = 32;
  EXPECT_EQ(AddQueryMoments(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  const TurnMomentsArgs turn = {.num_query_heads = 1, .head_dim = 64};
  EXPECT_EQ(TurnMoments(nullptr, turn).code(), absl::StatusCode::kInvalidArgument) << "no queries";
}

}  // namespace
}  // namespace kvship::cuda
