// The selector takes each head's best tokens, beside those that are always kept.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/compression_options.h"

namespace kvship {

// `budget` positions of a prompt of `prompt_tokens`, ascending: the first `sinks`, the last
// `recent_tokens`, and between them those of the highest score, ties to the smallest position.
// `scores` are those of the positions from 0; positions without a score come after all that have
// one. budget >= sinks + recent_tokens, budget <= prompt_tokens.
std::vector<int32_t> SelectTokens(std::span<const float> scores, size_t prompt_tokens,
                                  size_t budget, size_t sinks, size_t recent_tokens);

}  // namespace kvship
