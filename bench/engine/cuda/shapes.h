// The models whose shapes the benches of the GPU engine run, with random weights.
#pragma once

#include <cmath>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/model_config.h"

namespace kvship::cuda {

// Llama-3.1-8B ("8b"), Llama-2-7B as LWM-Text-Chat-1M has it ("7b"), the model of SnapKV's paper,
// without grouped queries, or Qwen3-30B-A3B ("30b-a3b"), a mixture of experts. With fewer layers
// where `num_layers` is above 0.
inline absl::StatusOr<ModelConfig> ShapeNamed(absl::string_view name, size_t num_layers) {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 32;
  config.hidden_dim = 4096;
  config.num_query_heads = 32;
  config.head_dim = 128;
  config.context_tokens = size_t{1} << 21;
  config.norm_epsilon = 1e-5f;
  if (name == "8b") {
    config.num_kv_heads = 8;
    config.ffn_dim = 14336;
    config.vocab_tokens = 128256;
  } else if (name == "7b") {
    config.num_kv_heads = 32;
    config.ffn_dim = 11008;
    config.vocab_tokens = 32000;
  } else if (name == "30b-a3b") {
    config.architecture = "qwen3moe";
    config.num_layers = 48;
    config.hidden_dim = 2048;
    config.num_kv_heads = 4;
    config.ffn_dim = 768;
    config.num_experts = 128;
    config.experts_per_token = 8;
    config.normalizes_expert_weights = true;
    config.vocab_tokens = 151936;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("shape ", name, ": wanted 8b, 7b or 30b-a3b"));
  }
  if (num_layers > 0) config.num_layers = num_layers;
  for (size_t i = 0; i < config.head_dim / 2; ++i) {
    config.rope_frequencies.push_back(
        std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim)));
  }
  return config;
}

// Floating-point operations of a prompt's prefill: of the products with the layers' weights, and of
// causal attention.
struct PrefillOperations {
  double products;
  double attention;
};
inline PrefillOperations OperationsOf(const ModelConfig& config, size_t num_tokens) {
  const auto t = static_cast<double>(num_tokens), layers = static_cast<double>(config.num_layers);
  const auto heads = static_cast<double>(config.num_query_heads + config.num_kv_heads);
  const auto c = static_cast<double>(config.hidden_dim), f = static_cast<double>(config.ffn_dim);
  const auto d = static_cast<double>(config.head_dim);
  const auto experts = static_cast<double>(config.has_experts() ? config.experts_per_token : 1);
  const double weights = 2 * heads * d * c + experts * 3 * f * c;
  const double q = static_cast<double>(config.num_query_heads) * d;
  return {.products = 2 * layers * t * weights, .attention = 2 * layers * t * t * q};
}

// Bytes of 16-bit weights that a decode step of `batch` sequences does not read: of the experts
// those that nobody goes through, where each token chooses for itself and all are equally liked, as
// with random weights.
inline double UnreadExpertBytes(const ModelConfig& config, size_t batch) {
  if (!config.has_experts()) return 0;
  const auto experts = static_cast<double>(config.num_experts);
  const double unread = std::pow(1 - static_cast<double>(config.experts_per_token) / experts,
                                 static_cast<double>(batch));
  return unread * experts * static_cast<double>(config.num_layers * 3 * config.ffn_dim) *
         static_cast<double>(config.hidden_dim * 2);
}

}  // namespace kvship::cuda
