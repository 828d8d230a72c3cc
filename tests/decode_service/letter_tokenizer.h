// A tokenizer for the tiny model, whose ids stand for letters.
#pragma once

#include "engine/tokenizer.h"

namespace kvship {

// Each id's bytes are the letter 'a' plus id modulo 26.
class LetterTokenizer final : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              std::span<const TextRange>) const override {
    return absl::UnimplementedError("not needed");
  }
  absl::string_view TokenBytes(int32_t id) const override {
    return absl::string_view("abcdefghijklmnopqrstuvwxyz").substr(id % 26, 1);
  }
  bool IsSpecial(int32_t id) const override { return id == 300; }
  std::optional<int32_t> SpecialToken(absl::string_view) const override { return std::nullopt; }
  size_t vocab_tokens() const override { return 320; }
  int32_t begin_token() const override { return -1; }
  Sha256Digest identity() const override { return {}; }
};

}  // namespace kvship
