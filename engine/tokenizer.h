// Tokenizer turns text into token ids and back: byte-pair encoding, as a GGUF file or a
// tokenizer.json describes it. Immutable after Load; any number of threads may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"

namespace kvship {

// Bytes of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;

  bool operator==(const TextRange&) const = default;
};

// What of a text is plain where names of special tokens are parsed everywhere, or nowhere.
inline std::vector<TextRange> PlainUnless(bool parse_special, absl::string_view text) {
  return parse_special ? std::vector<TextRange>() : std::vector{TextRange{0, text.size()}};
}

class Tokenizer {
 public:
  // From a GGUF file, or a model directory with tokenizer.json. Unimplemented names a tokenizer
  // model or pre-tokenizer that kvship does not have.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& path);
  virtual ~Tokenizer() = default;

  // The ids of UTF-8 text. Names of special tokens inside the text ("<|im_end|>") become those
  // tokens, but for what touches a range of `plain`: there they are text like any other. The ranges
  // are in order and apart. Bytes that are not valid UTF-8 are InvalidArgument.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      std::span<const TextRange> plain) const = 0;
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const {
    return Encode(text, PlainUnless(parse_special, text));
  }

  // The bytes of one token: possibly a part of a UTF-8 sequence. Special tokens give their name.
  // Empty for ids outside.
  virtual absl::string_view TokenBytes(int32_t id) const = 0;

  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> SpecialToken(absl::string_view name) const = 0;
  virtual size_t vocab_tokens() const = 0;

  // What stands before every prompt's text, as the model was trained (add_bos_token); -1: nothing.
  virtual int32_t begin_token() const = 0;

  // Special tokens that end an output whether the model's configuration says so or not.
  virtual std::span<const int32_t> end_tokens() const { return {}; }

  // SHA-256 over everything that decides what Encode gives.
  virtual Sha256Digest identity() const = 0;
};

}  // namespace kvship
