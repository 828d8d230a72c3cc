// How the vocabulary of a tokenizer writes text. Pure functions.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

enum class TokenSpelling {
  kByteLevel,      // each byte as a printable character (byte_alphabet.h), as GPT-2 does
  kSentencePiece,  // as it is, but kSpaceMark for a space, and <0xE2> for a byte of unknown text
};

inline constexpr absl::string_view kSpaceMark = "\u2581";

// The name of the token that stands for one byte.
std::string ByteTokenName(TokenSpelling spelling, unsigned char byte);

// The bytes that the token of that name stands for.
std::string BytesOfToken(TokenSpelling spelling, absl::string_view name);

}  // namespace kvship
