// What a GPU gathers of a layer's queries against what the CPU does, from the same ones.
#include "engine/cuda/device_observation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/layer_observation.h"
#include "kernels/scores.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using DeviceObservationTest = DeviceTest;

constexpr size_t kTokens = 300, kBlock = 128, kHeads = 4, kKvHeads = 2, kHeadDim = 64;
constexpr size_t kRow = (kHeads + 2 * kKvHeads) * kHeadDim;

ModelConfig MakeConfig() {
  ModelConfig config;
  config.num_query_heads = kHeads;
  config.num_kv_heads = kKvHeads;
  config.head_dim = kHeadDim;
  config.rope_pairs = RopePairs::kAdjacent;
  for (size_t i = 0; i < kHeadDim / 2; ++i) {
    config.rope_frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / kHeadDim));
  }
  return config;
}
const ModelConfig kConfig = MakeConfig();

// A layer's rows of queries, keys and values, block by block on both sides. Keys and queries are
// taken as they are for turned ones too.
class Sides {
 public:
  explicit Sides(const LayerNeeds& needs)
      : host(kConfig, kTokens, needs),
        device(DeviceObservation::Create(kConfig, kTokens, needs, nullptr).value()),
        rows_(RandomTensor(DType::kBf16, kTokens * kRow, 1)),
        keys_(RandomTensor(DType::kBf16, kKvHeads * kTokens * kHeadDim, 2)),
        lse_(kHeads * kTokens),
        device_rows_(rows_.bits),
        device_keys_(keys_.bits) {
    const TensorView lse(lse_.data(), {kHeads, kTokens});
    EXPECT_TRUE(
        WindowLogSumExp(backend_, Queries().Transposed(0, 1), Keys(), kTokens, 0, lse).ok());
    device_lse_.emplace(lse_);
  }

  void Layer() {
    host.Clear();
    ASSERT_EQ(device->Clear(), absl::OkStatus());
    for (size_t begin = 0; begin < kTokens; begin += kBlock) {
      const size_t count = std::min(kBlock, kTokens - begin);
      ASSERT_EQ(host.AddBeforeRope(backend_, begin, Queries().Slice(0, begin, count)),
                absl::OkStatus());
      ASSERT_EQ(device->AddBeforeRope({.qkv = device_rows_.data() + begin * kRow,
                                       .num_tokens = count,
                                       .num_query_heads = kHeads,
                                       .num_kv_heads = kKvHeads,
                                       .head_dim = kHeadDim,
                                       .first_row = begin}),
                absl::OkStatus());
      const TensorView lse(lse_.data(), {kHeads, kTokens});
      ASSERT_EQ(host.AddAttention(backend_, begin, Queries().Slice(0, begin, count),
                                  lse.Slice(1, begin, count), Keys()),
                absl::OkStatus());
      ASSERT_EQ(device->AddAttention({.q = device_rows_.data() + begin * kRow,
                                      .keys = device_keys_.data(),
                                      .lse = device_lse_->data() + begin,
                                      .num_queries = count,
                                      .num_query_heads = kHeads,
                                      .num_kv_heads = kKvHeads,
                                      .head_dim = kHeadDim,
                                      .head_stride = kTokens * kHeadDim,
                                      .q_row_stride = kRow,
                                      .lse_row_stride = kTokens,
                                      .first_position = begin}),
                absl::OkStatus());
    }
    host.Finish(backend_);
    ASSERT_EQ(device->Finish(), absl::OkStatus());
    host.ShowIn(&host_view);
    device->ShowIn(&device_view);
  }

  LayerObservation host;
  std::unique_ptr<DeviceObservation> device;
  LayerView host_view;
  DeviceLayerView device_view;

 private:
  TensorView Queries() {
    return TensorView(rows_.values.data(), {kTokens, kHeads + 2 * kKvHeads, kHeadDim})
        .Slice(1, 0, kHeads);
  }
  TensorView Keys() { return TensorView(keys_.values.data(), {kKvHeads, kTokens, kHeadDim}); }

  Backend backend_{1};
  Tensor16 rows_, keys_;
  std::vector<float> lse_;
  DeviceArray<uint16_t> device_rows_, device_keys_;
  std::optional<DeviceArray<float>> device_lse_;
};

// Relative to the largest: `tolerance` is that of a sum of as large numbers.
void ExpectTheSame(const float* device, const TensorView& host, double tolerance) {
  std::vector<float> got(host.num_elements());
  ASSERT_EQ(cudaMemcpy(got.data(), device, got.size() * sizeof(float), cudaMemcpyDeviceToHost),
            cudaSuccess);
  float largest = 0;
  for (size_t i = 0; i < got.size(); ++i) largest = std::max(largest, std::abs(host.f32()[i]));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], host.f32()[i], tolerance * largest) << i;
  }
}

TEST_F(DeviceObservationTest, ColumnSumsAreTheCpusLayerAfterLayer) {
  Sides sides({.window_begin = kTokens - 8, .window_end = kTokens, .column_sums = true});
  for (int layer = 0; layer < 2; ++layer) {
    sides.Layer();
    // A score's error, D roundings, and one for each query.
    ExpectTheSame(sides.device_view.column_sums, sides.host_view.column_sums,
                  (4 * kHeadDim + kTokens) * 0x1p-24);
    ExpectTheSame(sides.device_view.window_lse, sides.host_view.window_lse, 0);
  }
}

TEST_F(DeviceObservationTest, MomentsAreTheCpusLayerAfterLayer) {
  for (size_t begin : {0, 4, 130}) {  // 130: past the first block
    Sides sides({.future_tokens = 40, .moments_begin = begin});
    for (int layer = 0; layer < 2; ++layer) {
      sides.Layer();
      // Both are double, rounded at the end.
      ExpectTheSame(sides.device_view.query_mean, sides.host_view.query_mean, 0x1p-23);
      ExpectTheSame(sides.device_view.query_covariance, sides.host_view.query_covariance, 0x1p-23);
    }
  }
}

TEST_F(DeviceObservationTest, WhatNobodyAsksForIsNotThere) {
  Sides sides({.window_begin = kTokens - 8, .window_end = kTokens});
  sides.Layer();
  EXPECT_EQ(sides.device_view.column_sums, nullptr);
  EXPECT_EQ(sides.device_view.query_mean, nullptr);
  EXPECT_FALSE(sides.device->WantsAttention(0, kBlock));
  EXPECT_TRUE(sides.device->WantsAttention(kBlock, kTokens));
}

}  // namespace
}  // namespace kvship::cuda
