// A small random model in host memory whose weights are bf16 numbers, so that both engines compute
// with the same ones, and the two sides of a run on the GPU put together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/float16.h"
#include "engine/transformer.h"

namespace kvship::cuda {

// |a - b| / |b|.
inline double Distance(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

class RandomModel {
 public:
  // With experts a token's id says which two it goes through, whatever it has met before: what one
  // side rounds otherwise than the other chooses no other expert. `format`: F32 or F16.
  explicit RandomModel(RopePairs pairs, const char* architecture = "llama", size_t num_experts = 0,
                       WeightFormat format = WeightFormat::kF32)
      : format_(format) {
    ModelConfig& config = model_.config;
    config.architecture = architecture;
    config.num_layers = 2;
    config.hidden_dim = 256;
    config.num_query_heads = 4;
    config.num_kv_heads = 2;
    config.head_dim = 64;
    config.ffn_dim = num_experts > 0 ? 136 : 384;
    config.num_experts = num_experts;
    config.experts_per_token = num_experts > 0 ? 2 : 0;
    config.normalizes_expert_weights = true;
    config.vocab_tokens = 320;
    config.context_tokens = 4096;
    config.norm_epsilon = 1e-5f;
    config.rope_pairs = pairs;
    for (size_t i = 0; i < config.head_dim / 2; ++i) {
      config.rope_frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / 64));
    }
    const size_t c = config.hidden_dim, f = config.ffn_dim, d = config.head_dim;
    model_.embedding = Matrix(config.vocab_tokens, c, 1.0f);
    if (num_experts > 0) {
      for (size_t token = 0; token < config.vocab_tokens; ++token) {
        const size_t first = token % num_experts;
        const size_t second = (first + 1 + token / num_experts % (num_experts - 1)) % num_experts;
        matrices_.back()[token * c + first] = 16;
        matrices_.back()[token * c + second] = 8;
      }
    }
    for (size_t layer = 0; layer < config.num_layers; ++layer) {
      LayerWeights& w = model_.layers.emplace_back();
      w.attention_norm = Norm(c);
      w.query = Matrix(config.num_query_heads * d, c);
      w.key = Matrix(config.num_kv_heads * d, c);
      w.value = Matrix(config.num_kv_heads * d, c);
      if (config.has_query_key_value_bias()) {
        w.qkv_bias = Vector((config.num_query_heads + 2 * config.num_kv_heads) * d, 0.0f, 0.5f);
      }
      if (config.has_query_key_norm()) {
        w.query_norm = Norm(d);
        w.key_norm = Norm(d);
      }
      w.output = Matrix(c, config.num_query_heads * d);
      w.ffn_norm = Norm(c);
      if (num_experts > 0) {
        w.router = Matrix(num_experts, c);
        for (size_t i = 0; i < num_experts * c; ++i) {
          matrices_.back()[i] = i % c == i / c ? 0.25f : 0.0f;
        }
      }
      for (size_t i = 0; i < std::max<size_t>(1, num_experts); ++i) {
        w.experts.push_back({.gate = Matrix(f, c), .up = Matrix(f, c), .down = Matrix(c, f)});
      }
    }
    model_.output_norm = Norm(c);
    model_.output = Matrix(config.vocab_tokens, c);
    if (format_ == WeightFormat::kF16) {
      for (std::vector<float>& matrix : matrices_) HalveInPlace(matrix);
    }
  }

  const Transformer& model() const { return model_; }
  Transformer& mutable_model() { return model_; }

  std::vector<int32_t> Prompt(size_t num_tokens) {
    std::vector<int32_t> tokens(num_tokens);
    for (int32_t& token : tokens) {
      token = static_cast<int32_t>(random_() % model_.config.vocab_tokens);
    }
    return tokens;
  }

 private:
  float Number(float mean, float deviation) {
    return ToFloat(ToBf16(std::normal_distribution<float>(mean, deviation)(random_)));
  }
  WeightView Matrix(size_t rows, size_t cols, float deviation = 0.0f) {
    if (deviation == 0.0f) deviation = 1.0f / std::sqrt(static_cast<float>(cols));
    std::vector<float>& numbers = matrices_.emplace_back(rows * cols);
    for (float& x : numbers) x = Number(0.0f, deviation);
    return {reinterpret_cast<const std::byte*>(numbers.data()), format_, rows, cols};
  }
  static void HalveInPlace(std::vector<float>& numbers) {
    auto* const halves = reinterpret_cast<std::byte*>(numbers.data());
    for (size_t i = 0; i < numbers.size(); ++i) {
      const f16 half = ToF16(numbers[i]);
      std::memcpy(halves + i * sizeof(half), &half, sizeof(half));
    }
  }
  std::vector<float> Vector(size_t width, float mean, float deviation) {
    std::vector<float> weights(width);
    for (float& x : weights) x = Number(mean, deviation);
    return weights;
  }
  std::vector<float> Norm(size_t width) { return Vector(width, 1.0f, 0.1f); }

  const WeightFormat format_;
  std::mt19937 random_{7};
  std::vector<std::vector<float>> matrices_;  // moved, their numbers stay where they are
  Transformer model_;
};

}  // namespace kvship::cuda
