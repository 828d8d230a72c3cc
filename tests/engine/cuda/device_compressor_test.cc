// A layer's compact form from a GPU against the CPU's, from the same queries, keys and values.
#include "compress/cuda/device_compressor.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "compress/compressor.h"
#include "kernels/scores.h"
#include "kv/policies.h"
#include "tests/engine/cuda/same_layer.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using DeviceCompressorTest = DeviceTest;

constexpr size_t kTokens = 150;
constexpr KvShape kShape = {
    .num_layers = 4, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 64};

// Numbers that both sides read.
struct Numbers {
  explicit Numbers(const std::vector<float>& numbers) : host(numbers), device(numbers) {}
  TensorView View(std::initializer_list<size_t> sizes) { return TensorView(host.data(), sizes); }

  std::vector<float> host;
  DeviceArray<float> device;
};

std::vector<float> Uniform(size_t count, uint64_t seed) {
  std::vector<float> numbers(count);
  for (size_t i = 0; i < count; ++i) numbers[i] = static_cast<float>(UniformUnit(seed, i));
  return numbers;
}

// Of each query head [D, D]: what all elements have in common, and as much of their own.
std::vector<float> Covariances() {
  constexpr size_t d = kShape.head_dim;
  const std::vector<float> common = Uniform(kShape.num_query_heads * d, 6);
  std::vector<float> covariances(common.size() * d);
  for (size_t i = 0; i < covariances.size(); ++i) {
    const size_t row = i / d, other = row / d * d + i % d;
    covariances[i] = common[row] * common[other] + (row == other ? 1.0f : 0.0f);
  }
  return covariances;
}

// One layer on both sides.
class Layer {
 public:
  Layer(DType dtype, size_t index, size_t window)
      : queries_(RandomTensor(dtype, kShape.num_query_heads * window * kShape.head_dim, 1)),
        keys_(RandomTensor(dtype, kShape.num_kv_heads * kTokens * kShape.head_dim, 2)),
        values_(RandomTensor(dtype, keys_.bits.size(), 3)),
        lse_(kShape.num_query_heads * window),
        column_sums_(Uniform(kShape.num_query_heads * kTokens, 4)),
        query_mean_(Uniform(kShape.num_query_heads * kShape.head_dim, 5)),
        query_covariance_(Covariances()),
        device_queries_(queries_.bits),
        device_keys_(keys_.bits),
        device_values_(values_.bits) {
    const std::initializer_list<size_t> all = {kShape.num_kv_heads, kTokens, kShape.head_dim};
    host_.layer = index;
    host_.keys = TensorView(keys_.values.data(), all);
    host_.values = TensorView(values_.values.data(), all);
    host_.window_queries =
        TensorView(queries_.values.data(), {kShape.num_query_heads, window, kShape.head_dim});
    host_.window_lse = TensorView(lse_.data(), {kShape.num_query_heads, window});
    host_.window_begin = kTokens - window;
    Backend backend(1);
    EXPECT_TRUE(WindowLogSumExp(backend, host_.window_queries, host_.keys, kTokens,
                                host_.window_begin, host_.window_lse)
                    .ok());
    device_lse_.emplace(lse_);
    const size_t query_heads = kShape.num_query_heads, d = kShape.head_dim;
    host_.column_sums = column_sums_.View({query_heads, kTokens});
    host_.query_mean = query_mean_.View({query_heads, d});
    host_.query_covariance = query_covariance_.View({query_heads, d, d});
    device_ = {.layer = index,
               .dtype = dtype,
               .keys = reinterpret_cast<const std::byte*>(device_keys_.data()),
               .values = reinterpret_cast<const std::byte*>(device_values_.data()),
               .head_stride = kTokens * kShape.head_dim,
               .window_queries = reinterpret_cast<const std::byte*>(device_queries_.data()),
               .window_lse = device_lse_->data(),
               .column_sums = column_sums_.device.data(),
               .query_mean = query_mean_.device.data(),
               .query_covariance = query_covariance_.device.data()};
  }

  const LayerView& host() const { return host_; }
  const DeviceLayerView& device() const { return device_; }

 private:
  Tensor16 queries_, keys_, values_;
  std::vector<float> lse_;
  Numbers column_sums_, query_mean_, query_covariance_;
  DeviceArray<uint16_t> device_queries_, device_keys_, device_values_;
  std::optional<DeviceArray<float>> device_lse_;
  LayerView host_;
  DeviceLayerView device_;
};

TEST_F(DeviceCompressorTest, GivesTheCpusLayers) {
  for (const char* text :
       {"scorer=keep_all,encoder=f16",
        "scorer=keep_all,window=16,encoder=int4,window_encoder=f16",
        "budget_tokens=60,window=16,kernel=7,encoder=f16",
        "budget_tokens=60,window=16,softmax=prefix,window_reduce=sum,encoder=f16",
        "budget_tokens=60,window=16,recent_tokens=20,sinks=4,encoder=f16",
        "budget_tokens=60,window=16,allocator=pyramid,encoder=f16",
        "budget_tokens=60,window=16,encoder=int4,window_encoder=f16",
        "budget_tokens=60,window=40,encoder=int8,window_encoder=f16",
        "scorer=knorm,budget_tokens=60,window=16,encoder=f16",
        "scorer=knorm,budget_tokens=60,window=16,recent_tokens=0,sinks=1,encoder=f16",
        "scorer=streaming_llm,budget_tokens=60,window=16,encoder=f16",
        "scorer=streaming_llm,budget_tokens=60,window=16,recent_tokens=5,encoder=f16",
        "scorer=random,budget_tokens=60,window=16,allocator=pyramid,seed=9,encoder=f16",
        "scorer=tova,budget_tokens=60,window=16,encoder=f16",
        "scorer=tova,budget_tokens=60,window=1,sinks=2,allocator=pyramid,encoder=f16",
        "scorer=h2o,budget_tokens=60,window=16,encoder=f16",
        "scorer=h2o,budget_tokens=60,window=16,group_reduce=max,sinks=2,encoder=f16",
        "scorer=h2o,normalised=true,budget_tokens=60,window=16,recent_tokens=1,encoder=f16",
        "scorer=expected_attention,budget_tokens=60,window=16,encoder=f16",
        "scorer=expected_attention,budget_tokens=60,window=16,sinks=0,recent_tokens=0,encoder=f16",
        "scorer=keydiff,budget_tokens=60,window=16,encoder=f16",
        "scorer=keydiff,budget_tokens=60,window=16,recent_tokens=0,sinks=4,encoder=f16"}) {
    SCOPED_TRACE(text);
    const CompressionOptions options = ParseCompression(text).value();
    const auto plan = MakePlan(options, kShape, kTokens);
    ASSERT_TRUE(plan.ok()) << plan.status();
    auto host = Compressor::Create(options, kShape, *plan).value();
    auto device = DeviceCompressor::Create(options, kShape, *plan, DType::kF16, nullptr);
    ASSERT_TRUE(device.ok()) << device.status();
    const size_t most_bytes = (*device)->layer_bytes();
    Backend backend(1);
    for (size_t index : {0, 3}) {
      const Layer layer(DType::kF16, index,
                        std::max<size_t>(1, plan->window_end - plan->window_begin));
      const auto wanted = host->Compress(backend, layer.host());
      ASSERT_TRUE(wanted.ok()) << wanted.status();
      ASSERT_TRUE((*device)->Compress(layer.device()).ok());
      ASSERT_LE((*device)->layer_bytes(), most_bytes);
      std::vector<std::byte> bytes((*device)->layer_bytes());
      std::vector<float> masses(2 * kShape.num_kv_heads);
      ASSERT_TRUE((*device)->CopyToHost(bytes.data(), masses.data()).ok());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      ExpectTheSameLayer(*plan, *wanted, bytes, masses);
    }
  }
}

// No device is asked.
TEST(DeviceCompressor, WhatOnlyTheCpuDoesIsRefusedByName) {
  const KvShape shape = {.num_layers = 2, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 64};
  for (const auto& [text, word] :
       {std::pair{"allocator=ada,budget_tokens=64,encoder=bf16", "compression.allocator is ada"},
        std::pair{"selector=chunks,budget_tokens=64,encoder=bf16",
                  "compression.selector is chunks"},
        std::pair{"budget_tokens=128,window=80,encoder=bf16", "compression.window is 80"},
        std::pair{"budget_tokens=64,window=16,recent_tokens=8,encoder=bf16",
                  "compression.recent_tokens is 8"},
        std::pair{"budget_tokens=64,window_encoder=f16,encoder=int4",
                  "compression.window_encoder is f16; wanted bf16"},
        std::pair{"budget_tokens=64,encoder=f32", "compression.encoder is f32; wanted bf16"},
        std::pair{"scorer=keep_all,encoder=f16", "compression.encoder is f16; wanted bf16"}}) {
    const CompressionOptions options = ParseCompression(text).value();
    const KvPlan plan = MakePlan(options, shape, 500).value();
    const absl::Status status =
        DeviceCompressor::Create(options, shape, plan, DType::kBf16, nullptr).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_NE(status.message().find(word), absl::string_view::npos) << status;
  }
}

TEST(DeviceCompressor, AScorerThatOnlyTheCpuHasIsRefusedByName) {
  CompressionOptions options = ParseCompression("budget_tokens=64,encoder=bf16").value();
  const KvPlan plan = MakePlan(options, kShape, 500).value();
  options.scorer = "vnorm";
  const absl::Status status = DeviceCompressor::Check(options, kShape, plan, DType::kBf16);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("compression.scorer is vnorm; wanted snapkv, h2o, tova"),
            absl::string_view::npos)
      << status;
}

TEST(DeviceCompressor, EveryScorerOfTheRegistryRunsOnAGpu) {
  for (const ScorerTraits& scorer : Scorers()) {
    CompressionOptions options = ParseCompression("budget_tokens=80,encoder=bf16").value();
    options.scorer = std::string(scorer.name);
    const KvPlan plan = MakePlan(options, kShape, 500).value();
    EXPECT_EQ(DeviceCompressor::Check(options, kShape, plan, DType::kBf16), absl::OkStatus());
  }
}

}  // namespace
}  // namespace kvship::cuda
