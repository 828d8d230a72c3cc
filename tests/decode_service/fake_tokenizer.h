// A tokenizer for the tiny model that knows no text. Those that tests make say otherwise.
#pragma once

#include "engine/tokenizer.h"

namespace kvship {

class FakeTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              std::span<const TextRange>) const override {
    return absl::UnimplementedError("not needed");
  }
  absl::string_view TokenBytes(int32_t) const override { return ""; }
  bool IsSpecial(int32_t) const override { return false; }
  std::optional<int32_t> SpecialToken(absl::string_view) const override { return std::nullopt; }
  size_t vocab_tokens() const override { return 320; }
  int32_t begin_token() const override { return -1; }
  Sha256Digest identity() const override { return {}; }
};

}  // namespace kvship
