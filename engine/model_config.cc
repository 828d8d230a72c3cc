#include "engine/model_config.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/token_draw.h"

namespace kvship {
namespace {

// Far above any model there is, and low enough that products of three of them stay inside 64 bits.
constexpr size_t kMaxLayers = 10'000;
constexpr size_t kMaxDim = size_t{1} << 20;
constexpr size_t kMaxTokens = size_t{1} << 30;

absl::Status CheckRange(absl::string_view field, size_t value, size_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; wanted 1 to ", max));
}

absl::Status CheckRope(const ModelConfig& config) {
  if (config.rope_frequencies.size() != config.head_dim / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope_frequencies has ", config.rope_frequencies.size(), " entries; wanted ",
                     config.head_dim / 2, ", half of head_dim"));
  }
  for (size_t i = 0; i < config.rope_frequencies.size(); ++i) {
    const double frequency = config.rope_frequencies[i];
    if (!std::isfinite(frequency) || frequency < 0) {
      return absl::InvalidArgumentError(absl::StrCat("rope_frequencies[", i, "] is ", frequency,
                                                     "; wanted a finite number of 0 or more"));
    }
  }
  if (!std::isfinite(config.rope_attention_factor) || config.rope_attention_factor <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("rope_attention_factor is ",
                                                   config.rope_attention_factor,
                                                   "; wanted a finite number above 0"));
  }
  return absl::OkStatus();
}

absl::Status CheckToken(absl::string_view field, int32_t token, size_t vocab_tokens) {
  if (token >= 0 && static_cast<size_t>(token) < vocab_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", token, "; wanted 0 to ", vocab_tokens - 1));
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  RETURN_IF_ERROR(CheckRange("num_layers", num_layers, kMaxLayers));
  RETURN_IF_ERROR(CheckRange("hidden_dim", hidden_dim, kMaxDim));
  RETURN_IF_ERROR(CheckRange("num_query_heads", num_query_heads, kMaxDim));
  RETURN_IF_ERROR(CheckRange("num_kv_heads", num_kv_heads, kMaxDim));
  RETURN_IF_ERROR(CheckRange("head_dim", head_dim, kMaxDim));
  RETURN_IF_ERROR(CheckRange("ffn_dim", ffn_dim, kMaxDim));
  if (has_experts()) {
    RETURN_IF_ERROR(CheckRange("num_experts", num_experts, kMostExperts));
    RETURN_IF_ERROR(CheckRange("experts_per_token", experts_per_token, num_experts));
  }
  RETURN_IF_ERROR(CheckRange("vocab_tokens", vocab_tokens, kMostDrawnFrom));
  RETURN_IF_ERROR(CheckRange("context_tokens", context_tokens, kMaxTokens));
  if (num_query_heads % num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_query_heads is ", num_query_heads,
                                                   "; wanted a multiple of num_kv_heads, ",
                                                   num_kv_heads));
  }
  // What PagedAttention reads at a time.
  constexpr size_t kHeadDimStep = 16;
  if (head_dim % kHeadDimStep != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", head_dim, "; wanted a multiple of ", kHeadDimStep));
  }
  if (!std::isfinite(norm_epsilon) || norm_epsilon <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("norm_epsilon is ", norm_epsilon, "; wanted a finite number above 0"));
  }
  RETURN_IF_ERROR(CheckRope(*this));
  for (const int32_t token : end_tokens) {
    RETURN_IF_ERROR(CheckToken("end_tokens", token, vocab_tokens));
  }
  return begin_token == -1 ? absl::OkStatus()
                           : CheckToken("begin_token", begin_token, vocab_tokens);
}

}  // namespace kvship
