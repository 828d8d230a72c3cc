// A tokenizer for the tiny model, whose ids stand for letters.
#pragma once

#include "tests/decode_service/fake_tokenizer.h"

namespace kvship {

// Each id's bytes are the letter 'a' plus id modulo 26.
class LetterTokenizer final : public FakeTokenizer {
 public:
  absl::string_view TokenBytes(int32_t id) const override {
    return absl::string_view("abcdefghijklmnopqrstuvwxyz").substr(id % 26, 1);
  }
  bool IsSpecial(int32_t id) const override { return id == 300; }
};

}  // namespace kvship
