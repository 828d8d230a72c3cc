// The tokens that end a model's outputs. A pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model_config.h"
#include "engine/tokenizer.h"

namespace kvship {

// By the model's configuration, and by the word of its tokenizer, which may be null.
std::vector<int32_t> EndTokens(const ModelConfig& model, const Tokenizer* tokenizer);

}  // namespace kvship
