// ModelConfig is what a checkpoint says of a Llama-type transformer's shape, whatever file it came
// from. Plain data.
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
  size_t ffn_dim = 0;            // of each expert, where there are experts
  size_t num_experts = 0;        // of each layer's feed-forward; 0: one that all tokens go through
  size_t experts_per_token = 0;  // a mixture's: how many a token goes through
  // A mixture's: whether the weights of a token's experts are made to add up to 1.
  bool normalizes_expert_weights = false;
  size_t vocab_tokens = 0;
  size_t context_tokens = 0;  // the longest prompt plus output the model was made for
  float norm_epsilon = 0;
  // Angle per position of each pair of a head's elements [head_dim / 2], with the scaling of the
  // checkpoint (default, linear, llama3 or yarn) applied.
  std::vector<double> rope_frequencies;
  double rope_attention_factor = 1;  // times every turned query and key
  RopePairs rope_pairs = RopePairs::kHalves;
  std::vector<int32_t> end_tokens;  // any of them ends the output
  int32_t begin_token = -1;  // the file's; before a prompt stands what the tokenizer says; -1: none

  // A bias on queries, keys and values.
  bool has_query_key_value_bias() const { return architecture == "qwen2"; }
  // RMS norm of each query and key head before RoPE.
  bool has_query_key_norm() const { return architecture == "qwen3" || architecture == "qwen3moe"; }
  // A router chooses each token's experts.
  bool has_experts() const { return num_experts > 0; }

  // InvalidArgument naming the first field that no such model can have, its value and what was
  // wanted.
  absl::Status Validate() const;
};

}  // namespace kvship
