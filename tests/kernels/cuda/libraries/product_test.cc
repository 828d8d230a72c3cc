#include "kernels/cuda/product.h"

#include <cmath>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using ProductTest = DeviceTest;

struct Shape {
  size_t tokens, rows, cols;
};

TEST_F(ProductTest, IsTheDefinitionInBothTypes) {
  auto products = Products::Create();
  ASSERT_TRUE(products.ok()) << products.status();
  for (DType dtype : {DType::kBf16, DType::kF16}) {
    for (const Shape& s : {Shape{1, 64, 128}, Shape{5, 320, 256}, Shape{200, 96, 64}}) {
      for (bool accumulate : {false, true}) {
        SCOPED_TRACE(testing::Message() << s.tokens << " " << s.rows << " " << s.cols);
        const Tensor16 x = RandomTensor(dtype, s.tokens * s.cols, 1);
        const Tensor16 weights = RandomTensor(dtype, s.rows * s.cols, 2);
        const Tensor16 before = RandomTensor(dtype, s.tokens * s.rows, 3);
        const Tensor16 bias = RandomTensor(dtype, s.rows, 4);
        const DeviceArray<uint16_t> device_x(x.bits), device_weights(weights.bits),
            device_bias(bias.bits), out(before.bits);
        const DeviceArray<float> floats(s.tokens * s.rows);
        ProductArgs args = {.x = device_x.data(),
                            .weights = device_weights.data(),
                            .out = out.data(),
                            .dtype = dtype,
                            .out_dtype = dtype,
                            .num_tokens = s.tokens,
                            .rows = s.rows,
                            .cols = s.cols,
                            .accumulate = accumulate};
        ASSERT_TRUE((*products)->Run(nullptr, args).ok());
        args.accumulate = false;
        args.out = floats.data();
        args.out_dtype = DType::kF32;
        ASSERT_TRUE((*products)->Run(nullptr, args).ok());
        // Twice, for the plan is that of the first bias.
        const DeviceArray<uint16_t> with_bias(before.bits);
        args.out = with_bias.data();
        args.out_dtype = dtype;
        for (const DeviceArray<uint16_t>* each : {&device_weights, &device_bias}) {
          args.bias = each->data();
          ASSERT_TRUE((*products)->Run(nullptr, args).ok());
        }
        const std::vector<float> biased = ValuesOf(dtype, with_bias.ToHost());
        const std::vector<float> got = ValuesOf(dtype, out.ToHost()), in_f32 = floats.ToHost();
        for (size_t i = 0; i < got.size(); ++i) {
          double sum = 0, magnitude = 0;
          for (size_t k = 0; k < s.cols; ++k) {
            const double term =
                double{x.values[i / s.rows * s.cols + k]} * weights.values[i % s.rows * s.cols + k];
            sum += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(in_f32[i], sum, 1e-5 * magnitude) << i;
          const double summand = bias.values[i % s.rows];
          ASSERT_NEAR(
              biased[i], sum + summand,
              UnitRoundoff(dtype) * (std::abs(sum + summand) + std::abs(sum)) + 1e-5 * magnitude)
              << i;
          // cuBLAS may round the product to dtype before it adds what is there, and then the sum.
          const double wanted = sum + (accumulate ? before.values[i] : 0.0);
          const double rounded = std::abs(wanted) + (accumulate ? std::abs(sum) : 0.0);
          ASSERT_NEAR(got[i], wanted, UnitRoundoff(dtype) * rounded + 1e-5 * magnitude) << i;
        }
      }
    }
  }
}

TEST_F(ProductTest, RowsMayBeginAtAny16Bytes) {
  constexpr size_t kRows = 96, kCols = 64;
  auto products = Products::Create();
  ASSERT_TRUE(products.ok()) << products.status();
  for (const size_t begin : {8, 16, 32, 64, 128}) {
    const Tensor16 x = RandomTensor(DType::kBf16, begin + kCols, 1);
    const Tensor16 weights = RandomTensor(DType::kBf16, kRows * kCols, 2);
    const DeviceArray<uint16_t> device_x(x.bits), device_weights(weights.bits);
    const DeviceArray<float> out(begin / 2 + kRows);
    const absl::Status run = (*products)->Run(nullptr, {.x = device_x.data() + begin,
                                                        .weights = device_weights.data(),
                                                        .out = out.data() + begin / 2,
                                                        .out_dtype = DType::kF32,
                                                        .num_tokens = 1,
                                                        .rows = kRows,
                                                        .cols = kCols});
    ASSERT_TRUE(run.ok()) << run;
    const std::vector<float> got = out.ToHost();
    for (size_t i = 0; i < kRows; ++i) {
      double sum = 0, magnitude = 0;
      for (size_t k = 0; k < kCols; ++k) {
        const double term = double{x.values[begin + k]} * weights.values[i * kCols + k];
        sum += term;
        magnitude += std::abs(term);
      }
      ASSERT_NEAR(got[begin / 2 + i], sum, 1e-5 * magnitude) << begin << ": " << i;
    }
  }
}

TEST_F(ProductTest, RefusesColumnsThatAreNotAligned) {
  auto products = Products::Create();
  ASSERT_TRUE(products.ok());
  const absl::Status status = (*products)->Run(nullptr, {.num_tokens = 1, .rows = 8, .cols = 12});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
