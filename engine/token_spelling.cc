#include "engine/token_spelling.h"

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "engine/byte_alphabet.h"

namespace kvship {

std::string ByteTokenName(TokenSpelling spelling, unsigned char byte) {
  if (spelling == TokenSpelling::kByteLevel) return ByteCharacter(byte);
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
}

std::string BytesOfToken(TokenSpelling spelling, absl::string_view name) {
  if (spelling == TokenSpelling::kByteLevel) {
    // A name with characters outside the alphabet stands for itself.
    return DecodeByteCharacters(name).value_or(std::string(name));
  }
  constexpr size_t kByteNameLength = 6;
  uint32_t byte = 0;
  if (name.size() == kByteNameLength && absl::StartsWith(name, "<0x") &&
      absl::EndsWith(name, ">") && absl::SimpleHexAtoi(name.substr(3, 2), &byte)) {
    return std::string(1, static_cast<char>(byte));
  }
  return absl::StrReplaceAll(name, {{kSpaceMark, " "}});
}

}  // namespace kvship
