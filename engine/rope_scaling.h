// RopeScaling is how a checkpoint stretches its rotary position embedding past the context it was
// first trained for. Plain data.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"

namespace kvship {

struct RopeScaling {
  enum class Kind { kDefault, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kDefault;
  double theta = 10000;  // the base of the frequencies
  double factor = 1;     // positions are divided by it: all (linear), or those of slow pairs
  // llama3: pairs that turn fewer than `low_frequency_factor` times in `original_context_tokens`
  // are slow, those that turn more than `high_frequency_factor` times keep their frequency, and
  // between the two the change is gradual.
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context_tokens = 8192;
  // yarn: the same, with these numbers of turns and a change that is linear in the pair's index.
  double beta_slow = 1;
  double beta_fast = 32;
  std::optional<double> attention_factor = {};  // yarn: else 1 + ln(factor) / 10
};

// The angle per position of each pair [head_dim / 2]: theta^(-2i / head_dim), scaled. Sources:
// RoFormer, arXiv 2104.09864; position interpolation, arXiv 2306.15595; YaRN, arXiv 2309.00071;
// llama3, and where YaRN's change begins and ends, after modeling_rope_utils.py of
// huggingface/transformers. InvalidArgument naming the invalid parameter.
absl::StatusOr<std::vector<double>> RopeFrequencies(const RopeScaling& scaling, size_t head_dim);

// The factor that multiplies every rotated key and query: 1 except for yarn.
double RopeAttentionFactor(const RopeScaling& scaling);

// Sets both in `model`, and context_tokens if yarn extends it: a checkpoint to which yarn was added
// by hand keeps the number it was trained with. Errors: as RopeFrequencies.
absl::Status SetRope(const RopeScaling& scaling, ModelConfig& model);

}  // namespace kvship
