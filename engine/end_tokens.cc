#include "engine/end_tokens.h"

#include <algorithm>

namespace kvship {

std::vector<int32_t> EndTokens(const ModelConfig& model, const Tokenizer* tokenizer) {
  std::vector<int32_t> tokens = model.end_tokens;
  if (tokenizer == nullptr) return tokens;
  for (const int32_t token : tokenizer->end_tokens()) {
    const bool is_known = std::find(tokens.begin(), tokens.end(), token) != tokens.end();
    // A tokenizer may have more tokens than the model has rows for.
    const bool is_of_model = static_cast<size_t>(token) < model.vocab_tokens;
    if (!is_known && is_of_model) tokens.push_back(token);
  }
  return tokens;
}

}  // namespace kvship
