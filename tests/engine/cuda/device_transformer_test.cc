#include "engine/cuda/device_transformer.h"

#include <gtest/gtest.h>

#include "kernels/product.h"
#include "tests/engine/cuda/random_model.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/weights.h"

namespace kvship::cuda {
namespace {

using DeviceTransformerTest = DeviceTest;

std::vector<uint16_t> FromDevice(const std::byte* data, size_t count) {
  std::vector<uint16_t> bits(count);
  EXPECT_EQ(cudaMemcpy(bits.data(), data, count * sizeof(uint16_t), cudaMemcpyDeviceToHost),
            cudaSuccess);
  return bits;
}

std::vector<uint16_t> Rounded(DType dtype, const WeightView& weights) {
  std::vector<float> floats(weights.rows * weights.cols);
  Dequantize(weights, 0, TensorView(floats.data(), {weights.rows, weights.cols}));
  std::vector<uint16_t> bits;
  for (float x : floats) bits.push_back(BitsOf(dtype, x));
  return bits;
}

TEST_F(DeviceTransformerTest, BlocksAreUnpackedAsOnTheCpu) {
  RandomModel random(RopePairs::kHalves, "qwen3");
  Transformer& model = random.mutable_model();
  const size_t c = model.config.hidden_dim, f = model.config.ffn_dim;
  const RandomWeights key(1, WeightFormat::kQ4_1, model.layers[1].key.rows, c);
  const RandomWeights up(2, WeightFormat::kQ6_K, f, c);
  model.layers[1].key = key.view;
  model.layers[1].experts[0].up = up.view;
  const auto device = DeviceTransformer::Upload(model, DType::kF16);
  ASSERT_TRUE(device.ok()) << device.status();
  const DeviceLayerWeights& layer = (*device)->layer(1);
  const size_t query_bytes = model.layers[1].query.rows * c * kElementBytes;
  EXPECT_EQ(FromDevice(layer.qkv + query_bytes, key.view.rows * c), Rounded(DType::kF16, key.view));
  EXPECT_EQ(FromDevice(layer.gate_up + f * c * kElementBytes, f * c),
            Rounded(DType::kF16, up.view));
  EXPECT_EQ(FromDevice((*device)->embedding(), model.config.vocab_tokens * c),
            Rounded(DType::kF16, model.embedding));
  const std::vector<float>& norm = model.layers[1].key_norm;
  for (size_t i = 0; i < norm.size(); ++i) {
    ASSERT_EQ(FromDevice(layer.key_norm, norm.size())[i], BitsOf(DType::kF16, norm[i]));
  }
}

TEST(DeviceDType, IsBf16UnlessTheMatricesAreF16) {
  RandomModel random(RopePairs::kHalves);
  Transformer& model = random.mutable_model();
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kQ4_1, WeightFormat::kQ8_0}) {
    model.layers.front().query.format = format;
    EXPECT_EQ(DeviceDTypeOf(model), DType::kBf16) << WeightFormatName(format);
  }
  model.layers.front().query.format = WeightFormat::kF16;
  EXPECT_EQ(DeviceDTypeOf(model), DType::kF16);
}

TEST_F(DeviceTransformerTest, ExpertsLieOneAfterTheOther) {
  RandomModel random(RopePairs::kHalves, "mixtral", /*num_experts=*/4);
  const LayerWeights& weights = random.model().layers[1];
  const auto device = DeviceTransformer::Upload(random.model(), DType::kBf16);
  ASSERT_TRUE(device.ok()) << device.status();
  const DeviceLayerWeights& layer = (*device)->layer(1);
  EXPECT_EQ(FromDevice(layer.router, weights.router.rows * weights.router.cols),
            Rounded(DType::kBf16, weights.router));
  const std::byte *gate_up = layer.gate_up, *down = layer.down;
  const auto expect_next = [](const std::byte*& next, const WeightView& expected) {
    const size_t count = expected.rows * expected.cols;
    EXPECT_EQ(FromDevice(next, count), Rounded(DType::kBf16, expected));
    next += count * kElementBytes;
  };
  for (const FeedForwardWeights& expert : weights.experts) {
    expect_next(gate_up, expert.gate);
    expect_next(gate_up, expert.up);
    expect_next(down, expert.down);
  }
}

TEST_F(DeviceTransformerTest, MoreExpertsThanAreChosenFromAreRefused) {
  RandomModel random(RopePairs::kHalves);
  random.mutable_model().config.num_experts = 513;
  random.mutable_model().config.name = "mixture";
  EXPECT_EQ(
      DeviceTransformer::Upload(random.model(), DType::kF16).status(),
      absl::UnimplementedError("model mixture has 513 experts; wanted at most 512 on the GPU"));
}

TEST_F(DeviceTransformerTest, WhatIsLongerThanAPieceComesInSeveral) {
  // 40 MiB of floats.
  RandomModel random(RopePairs::kHalves);
  Transformer& model = random.mutable_model();
  const size_t c = model.config.hidden_dim;
  model.config.vocab_tokens = 40960;
  const RandomWeights table(3, WeightFormat::kF32, model.config.vocab_tokens, c);
  model.embedding = model.output = table.view;
  const auto device = DeviceTransformer::Upload(model, DType::kBf16);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(FromDevice((*device)->output(), model.config.vocab_tokens * c),
            Rounded(DType::kBf16, table.view));
}

}  // namespace
}  // namespace kvship::cuda
