// Prompts of random tokens, the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace kvship {

inline std::vector<int32_t> RandomPrompt(size_t num_tokens, uint64_t seed, size_t vocab_tokens) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < num_tokens; ++i) {
    tokens.push_back(static_cast<int32_t>(RandomBits(seed, i) % vocab_tokens));
  }
  return tokens;
}

}  // namespace kvship
