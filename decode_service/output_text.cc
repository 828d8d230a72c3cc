#include "decode_service/output_text.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace kvship {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

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

struct Prefix {
  size_t num_bytes = 0;  // at least 1
  enum { kWhole, kUnfinished, kInvalid } kind = kInvalid;
};

// The character, or the part of one, that `bytes` begins with.
Prefix FirstCharacter(absl::string_view bytes) {
  ByteRange range;
  const size_t wanted = CharacterBytes(static_cast<uint8_t>(bytes[0]), &range);
  if (wanted == 0) return {1, Prefix::kInvalid};
  size_t n = 1;
  for (; n < wanted && n < bytes.size(); ++n, range = {}) {
    const uint8_t byte = static_cast<uint8_t>(bytes[n]);
    if (byte < range.low || byte > range.high) return {n, Prefix::kInvalid};
  }
  return {n, n == wanted ? Prefix::kWhole : Prefix::kUnfinished};
}

}  // namespace

std::string Utf8Stream::Add(absl::string_view bytes) {
  rest_.append(bytes.data(), bytes.size());
  std::string out;
  size_t at = 0;
  while (at < rest_.size()) {
    const absl::string_view left = absl::string_view(rest_).substr(at);
    const Prefix prefix = FirstCharacter(left);
    if (prefix.kind == Prefix::kUnfinished) break;
    const absl::string_view character =
        prefix.kind == Prefix::kWhole ? left.substr(0, prefix.num_bytes) : kReplacement;
    out.append(character.data(), character.size());
    at += prefix.num_bytes;
  }
  rest_.erase(0, at);
  return out;
}

std::string Utf8Stream::Finish() {
  if (rest_.empty()) return "";
  rest_.clear();
  return std::string(kReplacement);
}

std::string StopMatcher::Add(absl::string_view text) {
  if (matched_) return "";
  held_.append(text.data(), text.size());
  size_t first_end = std::string::npos;
  size_t first_begin = 0;
  for (const std::string& stop : stop_) {
    const size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < first_end || (end == first_end && begin < first_begin)) {
      first_end = end;
      first_begin = begin;
    }
  }
  if (first_end != std::string::npos) {
    matched_ = true;
    held_.resize(first_begin);
    return std::exchange(held_, "");
  }
  const size_t safe = held_.size() - BeginningAtEnd();
  std::string out = held_.substr(0, safe);
  held_.erase(0, safe);
  return out;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

size_t StopMatcher::BeginningAtEnd() const {
  size_t longest = 0;
  for (const std::string& stop : stop_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

}  // namespace kvship
