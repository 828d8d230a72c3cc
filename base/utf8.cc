#include "base/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {
namespace {

struct ByteRange {
  uint8_t low = 0x80;
  uint8_t high = 0xbf;
};

// Bytes of a character that begins with `lead`, 0 if none does, and what its second byte may be
// (The Unicode Standard, table 3-7).
size_t CharacterBytes(uint8_t lead, ByteRange* second) {
  *second = {};
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return 2;
  if (lead == 0xe0) second->low = 0xa0;
  if (lead == 0xed) second->high = 0x9f;
  if (lead < 0xf0) return 3;
  if (lead == 0xf0) second->low = 0x90;
  if (lead == 0xf4) second->high = 0x8f;
  return lead < 0xf5 ? 4 : 0;
}

constexpr absl::string_view kWhitespace[] = {
    "\t",           "\n",           "\v",           "\f",           "\r",
    "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
    "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
    "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
    "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
    "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

}  // namespace

Utf8Prefix FirstCharacter(absl::string_view bytes) {
  ByteRange range;
  const size_t wanted = CharacterBytes(static_cast<uint8_t>(bytes[0]), &range);
  if (wanted == 0) return {1, Utf8Prefix::kInvalid};
  size_t n = 1;
  for (; n < wanted && n < bytes.size(); ++n, range = {}) {
    const uint8_t byte = static_cast<uint8_t>(bytes[n]);
    if (byte < range.low || byte > range.high) return {n, Utf8Prefix::kInvalid};
  }
  return {n, n == wanted ? Utf8Prefix::kWhole : Utf8Prefix::kUnfinished};
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
    const Utf8Prefix character = FirstCharacter(text.substr(i));
    if (character.kind != Utf8Prefix::kWhole) return i;
    i += character.num_bytes;
  }
  return i;
}

absl::string_view CutUtf8(absl::string_view text, size_t most_bytes) {
  const absl::string_view beginning = text.substr(0, most_bytes);
  return beginning.substr(0, ValidUtf8Bytes(beginning));
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Prefix first = FirstCharacter(text);
    absl::StrAppend(&out, first.kind == Utf8Prefix::kWhole ? text.substr(0, first.num_bytes)
                                                           : kReplacementCharacter);
    text.remove_prefix(first.num_bytes);
  }
  return out;
}

absl::string_view StripWhitespace(absl::string_view text) {
  // A character's bytes are found in no other character.
  const auto strip = [&text](auto consume) {
    while (std::any_of(std::begin(kWhitespace), std::end(kWhitespace),
                       [&](absl::string_view space) { return consume(&text, space); })) {
    }
  };
  strip(absl::ConsumePrefix);
  strip(absl::ConsumeSuffix);
  return text;
}

}  // namespace kvship
