#include "engine/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

// A bound of what is allocated here. What else a head may be, ModelConfig::Validate says.
constexpr size_t kMaxHeadDim = size_t{1} << 20;

absl::Status CheckPositive(absl::string_view field, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("RoPE ", field, " is ", value, "; wanted a finite number above 0"));
}

absl::Status CheckLess(absl::string_view low_field, double low, absl::string_view high_field,
                       double high) {
  RETURN_IF_ERROR(CheckPositive(low_field, low));
  RETURN_IF_ERROR(CheckPositive(high_field, high));
  if (high > low) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("RoPE ", high_field, " is ", high, "; wanted more than ", low_field, ", ", low));
}

absl::Status CheckYarn(const RopeScaling& scaling) {
  if (scaling.theta == 1) return absl::InvalidArgumentError("RoPE theta is 1; wanted another");
  // 1 + ln(factor) / 10 is 3 for a factor of 5e8; far from that attention has no meaning.
  constexpr double kMostTimes = 100;
  const double times = RopeAttentionFactor(scaling);
  if (!(times >= 1 / kMostTimes && times <= kMostTimes)) {
    return absl::InvalidArgumentError(absl::StrCat("RoPE attention_factor is ", times, "; wanted ",
                                                   1 / kMostTimes, " to ", kMostTimes));
  }
  return CheckLess("beta_slow", scaling.beta_slow, "beta_fast", scaling.beta_fast);
}

absl::Status Check(const RopeScaling& scaling, size_t head_dim) {
  if (head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", head_dim, "; wanted at most ", kMaxHeadDim));
  }
  RETURN_IF_ERROR(CheckPositive("theta", scaling.theta));
  RETURN_IF_ERROR(CheckPositive("factor", scaling.factor));
  using Kind = RopeScaling::Kind;
  if (scaling.kind != Kind::kLlama3 && scaling.kind != Kind::kYarn) return absl::OkStatus();
  RETURN_IF_ERROR(
      CheckPositive("original_max_position_embeddings", scaling.original_context_tokens));
  if (scaling.kind == Kind::kYarn) return CheckYarn(scaling);
  return CheckLess("low_freq_factor", scaling.low_frequency_factor, "high_freq_factor",
                   scaling.high_frequency_factor);
}

double ScaleLlama3(const RopeScaling& scaling, double frequency) {
  const double turns = scaling.original_context_tokens * frequency / (2 * std::numbers::pi);
  if (turns > scaling.high_frequency_factor) return frequency;
  const double slow = frequency / scaling.factor;
  if (turns < scaling.low_frequency_factor) return slow;
  const double share = (turns - scaling.low_frequency_factor) /
                       (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return (1 - share) * slow + share * frequency;
}

double ScaleYarn(const RopeScaling& scaling, size_t head_dim, size_t pair, double frequency) {
  // The pair, as a number with a fraction, that turns so often in the original context.
  const auto pair_of = [&](double turns) {
    const double tokens_per_radian =
        scaling.original_context_tokens / (2 * std::numbers::pi * turns);
    return static_cast<double>(head_dim) * std::log(tokens_per_radian) /
           (2 * std::log(scaling.theta));
  };
  const double last_kept = std::max(std::floor(pair_of(scaling.beta_fast)), 0.0);
  double first_slow =
      std::min(std::ceil(pair_of(scaling.beta_slow)), static_cast<double>(head_dim) - 1);
  if (first_slow == last_kept) first_slow += 0.001;
  const double past = (static_cast<double>(pair) - last_kept) / (first_slow - last_kept);
  return std::lerp(frequency, frequency / scaling.factor, std::clamp(past, 0.0, 1.0));
}

}  // namespace

absl::StatusOr<std::vector<double>> RopeFrequencies(const RopeScaling& scaling, size_t head_dim) {
  RETURN_IF_ERROR(Check(scaling, head_dim));
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = std::pow(scaling.theta, -2.0 * i / head_dim);
    switch (scaling.kind) {
      case RopeScaling::Kind::kDefault: frequencies[i] = plain; break;
      case RopeScaling::Kind::kLinear: frequencies[i] = plain / scaling.factor; break;
      case RopeScaling::Kind::kLlama3: frequencies[i] = ScaleLlama3(scaling, plain); break;
      case RopeScaling::Kind::kYarn: frequencies[i] = ScaleYarn(scaling, head_dim, i, plain); break;
    }
  }
  return frequencies;
}

double RopeAttentionFactor(const RopeScaling& scaling) {
  if (scaling.kind != RopeScaling::Kind::kYarn) return 1;
  if (scaling.attention_factor.has_value()) return *scaling.attention_factor;
  return scaling.factor <= 1 ? 1 : 1 + std::log(scaling.factor) / 10;
}

absl::Status SetRope(const RopeScaling& scaling, ModelConfig& model) {
  ASSIGN_OR_RETURN(model.rope_frequencies, RopeFrequencies(scaling, model.head_dim));
  model.rope_attention_factor = RopeAttentionFactor(scaling);
  if (scaling.kind != RopeScaling::Kind::kYarn) return absl::OkStatus();
  constexpr double kMostTokens = 1 << 30;  // as ModelConfig::Validate has it
  const double tokens = scaling.factor * scaling.original_context_tokens;
  if (tokens > kMostTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("RoPE factor is ", scaling.factor, " and original_max_position_embeddings ",
                     scaling.original_context_tokens, "; wanted a product of at most ", 1 << 30));
  }
  model.context_tokens = std::max(model.context_tokens, static_cast<size_t>(tokens));
  return absl::OkStatus();
}

}  // namespace kvship
