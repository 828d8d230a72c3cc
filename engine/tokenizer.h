// Tokenizer converts text to token ids and back, by byte-pair encoding as a GGUF file or a
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

// A range of bytes in a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;

  bool operator==(const TextRange&) const = default;
};

// The plain ranges of a text in which special-token names are parsed everywhere, or nowhere.
inline std::vector<TextRange> PlainUnless(bool parse_special, absl::string_view text) {
  return parse_special ? std::vector<TextRange>() : std::vector{TextRange{0, text.size()}};
}

class Tokenizer {
 public:
  // Reads a GGUF file, or a model directory with tokenizer.json. Unimplemented names a tokenizer
  // model or pre-tokenizer that kvship does not have.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& path);
  // The same, but null where Load finds none.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadIfPresent(const std::string& path);
  virtual ~Tokenizer() = default;

  // Returns the ids of UTF-8 text. Names of special tokens in it ("<|im_end|>") become those
  // tokens, unless they touch a range of `plain`: there they are ordinary text. The ranges are in
  // order and disjoint. InvalidArgument if the text is not valid UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      std::span<const TextRange> plain) const = 0;
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const {
    return Encode(text, PlainUnless(parse_special, text));
  }

  // The bytes of one token, possibly a part of a UTF-8 sequence; a special token's name. Empty if
  // `id` is out of range.
  virtual absl::string_view TokenBytes(int32_t id) const = 0;

  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> SpecialToken(absl::string_view name) const = 0;
  virtual size_t vocab_tokens() const = 0;

  // The token before every prompt, as the model was trained (add_bos_token); -1: none.
  virtual int32_t begin_token() const = 0;

  // Names of the tokens that chat templates know as bos_token and eos_token, whether or not the
  // tokenizer uses them; empty: none.
  virtual absl::string_view begin_name() const { return {}; }
  virtual absl::string_view end_name() const { return {}; }

  // Special tokens that end an output even if the model's configuration does not say so.
  virtual std::span<const int32_t> end_tokens() const { return {}; }

  // SHA-256 over everything that determines Encode's result.
  virtual Sha256Digest identity() const = 0;
};

}  // namespace kvship
