// The cosines and sines by which RoPE rotates keys and queries. A pure function.
#pragma once

#include "base/tensor_view.h"
#include "engine/model_config.h"

namespace kvship {

// Fills `row` [head_dim] with cos and sin of position * frequency, pair by pair, times the model's
// attention factor.
void FillRopeRow(const ModelConfig& config, size_t position, float* row);

}  // namespace kvship
