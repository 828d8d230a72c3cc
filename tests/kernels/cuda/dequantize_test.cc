#include "kernels/cuda/dequantize.h"

#include "kernels/product.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/weights.h"

namespace kvship::cuda {
namespace {

using DequantizeTest = DeviceTest;

TEST_F(DequantizeTest, GivesTheCpusWeightsRoundedToTheBit) {
  constexpr size_t kRows = 37, kCols = 768;
  for (WeightFormat format : kAllFormats) {
    for (DType dtype : {DType::kF16, DType::kBf16}) {
      SCOPED_TRACE(WeightFormatName(format));
      const RandomWeights weights(11, format, kRows, kCols);
      std::vector<float> floats(kRows * kCols);
      kvship::Dequantize(weights.view, 0, TensorView(floats.data(), {kRows, kCols}));
      const DeviceArray<std::byte> packed(weights.bytes);
      const DeviceArray<uint16_t> out(floats.size() + 8);
      const absl::Status status = Dequantize(nullptr, {.packed = packed.data(),
                                                       .out = out.data(),
                                                       .format = format,
                                                       .dtype = dtype,
                                                       .num_weights = floats.size()});
      ASSERT_TRUE(status.ok()) << status;
      const std::vector<uint16_t> got = out.ToHost();
      for (size_t i = 0; i < floats.size(); ++i) {
        ASSERT_EQ(got[i], BitsOf(dtype, floats[i])) << floats[i] << " at " << i;
      }
      EXPECT_EQ(got[floats.size()], 0xffff) << "written past the end";
    }
  }
}

TEST_F(DequantizeTest, WantsWholeBlocks) {
  DequantizeArgs args = {.format = WeightFormat::kQ4_K, .num_weights = 128};
  EXPECT_FALSE(Dequantize(nullptr, args).ok());
  args = {.format = WeightFormat::kF32, .num_weights = 12};
  EXPECT_FALSE(Dequantize(nullptr, args).ok());
}

}  // namespace
}  // namespace kvship::cuda
