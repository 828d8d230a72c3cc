#include "engine/byte_alphabet.h"

#include <array>
#include <cstdint>
#include <cstring>

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

// The length in bytes of the character that begins at text[i], or 0 if it is not valid.
size_t CharacterBytes(absl::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
  const auto is_tail = [&](size_t k) { return i + k < text.size() && (byte(k) & 0xc0) == 0x80; };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;  // a tail, or an overlong form of ASCII
  if (lead < 0xe0) return is_tail(1) ? 2 : 0;
  if (lead < 0xf0) {
    if (!is_tail(1) || !is_tail(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;   // overlong
    if (lead == 0xed && byte(1) >= 0xa0) return 0;  // a surrogate
    return 3;
  }
  if (lead > 0xf4 || !is_tail(1) || !is_tail(2) || !is_tail(3)) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;   // overlong
  if (lead == 0xf4 && byte(1) >= 0x90) return 0;  // past U+10FFFF
  return 4;
}

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
    const size_t num_bytes = CharacterBytes(text, i);
    if (num_bytes != 1 && num_bytes != 2) return std::nullopt;
    uint32_t code_point = static_cast<unsigned char>(text[i]);
    if (num_bytes == 2) {
      code_point = (code_point & 0x1f) << 6 | (static_cast<unsigned char>(text[i + 1]) & 0x3f);
    }
    if (code_point >= kAlphabet.bytes.size() || kAlphabet.bytes[code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kAlphabet.bytes[code_point]));
    i += num_bytes;
  }
  return bytes;
}

size_t ValidUtf8Bytes(absl::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    if (i + sizeof(eight) <= text.size()) {  // most text is ASCII
      std::memcpy(&eight, text.data() + i, sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        i += sizeof(eight);
        continue;
      }
    }
    const size_t num_bytes = CharacterBytes(text, i);
    if (num_bytes == 0) return i;
    i += num_bytes;
  }
  return i;
}

}  // namespace kvship
