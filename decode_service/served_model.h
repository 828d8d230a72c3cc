// ServedModel is the model that a decode node has loaded: weights, tokenizer, chat template. The
// last two may be missing; the model then accepts token ids only, or no chat. Immutable, except
// that grammars are compiled on demand. Thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "decode_service/grammar/output_matcher.h"
#include "engine/chat_template.h"
#include "engine/end_tokens.h"
#include "engine/tokenizer.h"
#include "engine/transformer.h"
#include "kv/shape.h"

namespace kvship {

struct ServedModel {
  std::unique_ptr<const Transformer> transformer;
  std::unique_ptr<const Tokenizer> tokenizer;  // may be null
  std::optional<ChatTemplate> chat_template;   // none without a tokenizer
  absl::Status why_no_chat_template;
  std::vector<int32_t> call_tokens;          // special tokens that occur in tool calls
  std::vector<int32_t> thought_tokens;       // special tokens that begin and end thoughts
  std::unique_ptr<OutputGrammars> grammars;  // null without a tokenizer
  // A text with more bytes cannot fit the context, however it is tokenized.
  size_t most_text_bytes = SIZE_MAX;
  Sha256Digest identity;  // of weights and tokenizer together

  const ModelConfig& config() const { return transformer->config; }
  std::vector<int32_t> end_tokens() const { return EndTokens(config(), tokenizer.get()); }

  // The names of call_tokens.
  std::vector<std::string> CallTokenNames() const {
    std::vector<std::string> names;
    for (const int32_t token : call_tokens) names.emplace_back(tokenizer->TokenBytes(token));
    return names;
  }

  // Errors: as LoadTransformer and Tokenizer::Load, except that a missing tokenizer is no error;
  // InvalidArgument if the tokenizer prepends a token that the model lacks.
  static absl::StatusOr<ServedModel> Load(const std::string& path);
};

}  // namespace kvship
