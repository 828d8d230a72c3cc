#include "engine/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "base/utf8.h"

namespace kvship {
namespace {

// Bytes that are printable characters of Latin-1 stand for themselves; the others are numbered
// from U+0100 on, in their order.
constexpr uint32_t kFirstOther = 0x100;
constexpr size_t kNumOthers = 68;

constexpr bool StandsForItself(uint32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<uint16_t, 256> code_points = {};
  std::array<int16_t, kFirstOther + kNumOthers> bytes = {};  // -1: not of the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  uint32_t next_other = kFirstOther;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t code_point = StandsForItself(byte) ? byte : next_other++;
    alphabet.code_points[byte] = static_cast<uint16_t>(code_point);
    alphabet.bytes[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();
static_assert(kAlphabet.code_points[' '] == 0x120 && kAlphabet.code_points[0xad] == 0x143);

}  // namespace

std::string ByteCharacter(unsigned char byte) {
  const uint16_t code_point = kAlphabet.code_points[byte];
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3f))};
}

std::optional<std::string> DecodeByteCharacters(absl::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    // The alphabet ends below U+0800: its characters take one byte or two.
    const Utf8Prefix character = FirstCharacter(text.substr(i));
    if (character.kind != Utf8Prefix::kWhole || character.num_bytes > 2) return std::nullopt;
    uint32_t code_point = static_cast<unsigned char>(text[i]);
    if (character.num_bytes == 2) {
      code_point = (code_point & 0x1f) << 6 | (static_cast<unsigned char>(text[i + 1]) & 0x3f);
    }
    if (code_point >= kAlphabet.bytes.size() || kAlphabet.bytes[code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kAlphabet.bytes[code_point]));
    i += character.num_bytes;
  }
  return bytes;
}

}  // namespace kvship
