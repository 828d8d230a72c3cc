// One layer of a prompt, and its compressors, on a GPU and on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/random.h"
#include "compress/compressor.h"
#include "compress/cuda/device_compressor.h"
#include "kernels/scores.h"
#include "tests/engine/cuda/same_layer.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {

inline constexpr size_t kTokens = 150;
inline constexpr KvShape kShape = {
    .num_layers = 4, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 64};

// Numbers that both sides read.
struct Numbers {
  explicit Numbers(const std::vector<float>& numbers) : host(numbers), device(numbers) {}
  TensorView View(std::initializer_list<size_t> sizes) { return TensorView(host.data(), sizes); }

  std::vector<float> host;
  DeviceArray<float> device;
};

inline std::vector<float> Uniform(size_t count, uint64_t seed) {
  std::vector<float> numbers(count);
  for (size_t i = 0; i < count; ++i) numbers[i] = static_cast<float>(UniformUnit(seed, i));
  return numbers;
}

// Of each query head [D, D]: what all elements have in common, and as much of their own.
inline std::vector<float> Covariances() {
  constexpr size_t d = kShape.head_dim;
  const std::vector<float> common = Uniform(kShape.num_query_heads * d, 6);
  std::vector<float> covariances(common.size() * d);
  for (size_t i = 0; i < covariances.size(); ++i) {
    const size_t row = i / d, other = row / d * d + i % d;
    covariances[i] = common[row] * common[other] + (row == other ? 1.0f : 0.0f);
  }
  return covariances;
}

// Adds to channel 0 of rows of D elements.
inline void AddToFirstChannel(Tensor16& tensor, size_t first_row, size_t num_rows, float x) {
  for (size_t row = first_row; row < first_row + num_rows; ++row) {
    const size_t i = row * kShape.head_dim;
    tensor.bits[i] = BitsOf(tensor.dtype, tensor.values[i] + x);
    tensor.values[i] = ValueOf(tensor.dtype, tensor.bits[i]);
  }
}

// One layer on both sides, with a window of queries that begins at `window_begin`. Those of the
// last KV head may see the window's keys and hardly another.
class Layer {
 public:
  Layer(DType dtype, size_t index, size_t window_begin, size_t window,
        bool last_head_sees_its_window = false)
      : queries_(RandomTensor(dtype, kShape.num_query_heads * window * kShape.head_dim, 1)),
        keys_(RandomTensor(dtype, kShape.num_kv_heads * kTokens * kShape.head_dim, 2)),
        values_(RandomTensor(dtype, keys_.bits.size(), 3)),
        lse_(kShape.num_query_heads * window),
        column_sums_(Uniform(kShape.num_query_heads * kTokens, 4)),
        query_mean_(Uniform(kShape.num_query_heads * kShape.head_dim, 5)),
        query_covariance_(Covariances()) {
    if (last_head_sees_its_window) {
      const size_t group = kShape.num_query_heads / kShape.num_kv_heads;
      AddToFirstChannel(queries_, (kShape.num_query_heads - group) * window, group * window, 10);
      AddToFirstChannel(keys_, (kShape.num_kv_heads - 1) * kTokens + window_begin, window, 10);
    }
    device_queries_.emplace(queries_.bits);
    device_keys_.emplace(keys_.bits);
    device_values_.emplace(values_.bits);
    const std::initializer_list<size_t> all = {kShape.num_kv_heads, kTokens, kShape.head_dim};
    host_.layer = index;
    host_.keys = TensorView(keys_.values.data(), all);
    host_.values = TensorView(values_.values.data(), all);
    host_.window_queries =
        TensorView(queries_.values.data(), {kShape.num_query_heads, window, kShape.head_dim});
    host_.window_lse = TensorView(lse_.data(), {kShape.num_query_heads, window});
    host_.window_begin = window_begin;
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
               .keys = reinterpret_cast<const std::byte*>(device_keys_->data()),
               .values = reinterpret_cast<const std::byte*>(device_values_->data()),
               .head_stride = kTokens * kShape.head_dim,
               .window_queries = reinterpret_cast<const std::byte*>(device_queries_->data()),
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
  std::optional<DeviceArray<uint16_t>> device_queries_, device_keys_, device_values_;
  Numbers column_sums_, query_mean_, query_covariance_;
  std::optional<DeviceArray<float>> device_lse_;
  LayerView host_;
  DeviceLayerView device_;
};

// The compressors of both sides for a prompt of kTokens.
struct Sides {
  explicit Sides(const char* text, DType keys_dtype = DType::kF16)
      : dtype(keys_dtype),
        options(ParseCompression(text).value()),
        plan(MakePlan(options, kShape, kTokens).value()) {
    host = Compressor::Create(options, kShape, plan).value();
    auto created = DeviceCompressor::Create(options, kShape, plan, dtype, nullptr);
    EXPECT_TRUE(created.ok()) << created.status();
    device = *std::move(created);
  }

  // Of both, which are the same; the host's.
  CompactLayer Compress(size_t index, bool last_head_sees_its_window = false) {
    // A whole prompt has none.
    const size_t window = std::max<size_t>(1, plan.window_end - plan.window_begin);
    const Layer layer(dtype, index, plan.window_begin, window, last_head_sees_its_window);
    auto wanted = host->Compress(backend, layer.host());
    EXPECT_TRUE(wanted.ok()) << wanted.status();
    EXPECT_EQ(device->Compress(layer.device()), absl::OkStatus());
    const CompactLayer got = ToHost(device->compact());
    ExpectTheSameLayer(plan, wanted->compact, got);
    if (options.allocator == "ada") {
      EXPECT_EQ(TokensOf(got), plan.layer_tokens[index]);
    }
    return std::move(wanted->compact);
  }

  DType dtype;
  CompressionOptions options;
  KvPlan plan;
  Backend backend{1};
  std::unique_ptr<Compressor> host;
  std::unique_ptr<DeviceCompressor> device;
};

}  // namespace kvship::cuda
