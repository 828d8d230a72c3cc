// ModelConfig is the shape of a Llama-type transformer as its checkpoint states it, in any file
// format. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/elementwise.h"

namespace kvship {

struct ModelConfig {
  static constexpr size_t kMostExperts = 1024;

  // "llama", "mistral", "mixtral", "qwen2", "qwen3" or "qwen3moe". A GGUF file calls the first
  // three llama.
  std::string architecture;
  std::string name;  // for people; not part of any identity
  size_t num_layers = 0;
  size_t hidden_dim = 0;
  size_t num_query_heads = 0;
  size_t num_kv_heads = 0;
  size_t head_dim = 0;
  size_t ffn_dim = 0;            // of each expert in a mixture
  size_t num_experts = 0;        // in each layer's feed-forward network; 0: the model is dense
  size_t experts_per_token = 0;  // experts that a token goes through
  // In a mixture: whether the weights of a token's experts are scaled to sum to 1.
  bool normalizes_expert_weights = false;
  size_t vocab_tokens = 0;
  size_t context_tokens = 0;  // the longest prompt plus output the model was made for
  float norm_epsilon = 0;
  // Angle per position of each pair of a head's elements [head_dim / 2], after the checkpoint's
  // scaling (default, linear, llama3 or yarn).
  std::vector<double> rope_frequencies;
  double rope_attention_factor = 1;  // multiplies every rotated query and key
  RopePairs rope_pairs = RopePairs::kHalves;
  std::vector<int32_t> end_tokens;  // any of them ends the output
  int32_t begin_token = -1;  // the file's, -1: none; prompts begin with the tokenizer's instead

  // A bias on queries, keys and values.
  bool has_query_key_value_bias() const { return architecture == "qwen2"; }
  // RMS norm of each query and key head before RoPE.
  bool has_query_key_norm() const { return architecture == "qwen3" || architecture == "qwen3moe"; }
  // A router chooses each token's experts.
  bool has_experts() const { return num_experts > 0; }

  // InvalidArgument naming the first invalid field, its value and what was wanted.
  absl::Status Validate() const;
};

}  // namespace kvship
