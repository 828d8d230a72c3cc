#include "engine/rope_scaling.h"

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

absl::Status Check(const RopeScaling& scaling, size_t head_dim) {
  if (head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", head_dim, "; wanted at most ", kMaxHeadDim));
  }
  RETURN_IF_ERROR(CheckPositive("theta", scaling.theta));
  RETURN_IF_ERROR(CheckPositive("factor", scaling.factor));
  if (scaling.kind != RopeScaling::Kind::kLlama3) return absl::OkStatus();
  RETURN_IF_ERROR(
      CheckPositive("original_max_position_embeddings", scaling.original_context_tokens));
  RETURN_IF_ERROR(CheckPositive("low_freq_factor", scaling.low_frequency_factor));
  RETURN_IF_ERROR(CheckPositive("high_freq_factor", scaling.high_frequency_factor));
  if (scaling.high_frequency_factor > scaling.low_frequency_factor) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("RoPE high_freq_factor is ", scaling.high_frequency_factor,
                   "; wanted more than low_freq_factor, ", scaling.low_frequency_factor));
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
    }
  }
  return frequencies;
}

}  // namespace kvship
