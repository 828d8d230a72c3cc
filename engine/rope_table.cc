#include "engine/rope_table.h"

#include <cmath>

namespace kvship {

void FillRopeRow(const ModelConfig& config, size_t position, float* row) {
  for (size_t i = 0; i < config.head_dim / 2; ++i) {
    // In double: at position 10^6 a float angle is off by 0.03.
    const double angle = static_cast<double>(position) * config.rope_frequencies[i];
    row[2 * i] = static_cast<float>(std::cos(angle) * config.rope_attention_factor);
    row[2 * i + 1] = static_cast<float>(std::sin(angle) * config.rope_attention_factor);
  }
}

}  // namespace kvship
