// The tokens that end a model's outputs. A pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model_config.h"
#include "engine/tokenizer.h"

namespace kvship {

// The model's end tokens, and those of `tokenizer` (may be null) that its vocabulary has.
std::vector<int32_t> EndTokens(const ModelConfig& model, const Tokenizer* tokenizer);

}  // namespace kvship
