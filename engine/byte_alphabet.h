// The alphabet of byte-level BPE: each byte is written as one printable character, so that a
// vocabulary of text can hold any bytes. Pure functions.
//
// Source: bytes_to_unicode in encoder.py of openai/gpt-2.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// The character of a byte, in UTF-8.
std::string ByteCharacter(unsigned char byte);

// The bytes that `text` stands for; nullopt if a character is not in the alphabet.
std::optional<std::string> DecodeByteCharacters(absl::string_view text);

}  // namespace kvship
