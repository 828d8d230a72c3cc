#include "decode_service/output_text.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace kvship {

std::string Utf8Stream::Add(absl::string_view bytes) {
  rest_.append(bytes.data(), bytes.size());
  std::string out;
  size_t at = 0;
  while (at < rest_.size()) {
    const absl::string_view left = absl::string_view(rest_).substr(at);
    const Utf8Prefix prefix = FirstCharacter(left);
    if (prefix.kind == Utf8Prefix::kUnfinished) break;
    const absl::string_view character = prefix.kind == Utf8Prefix::kWhole
                                            ? left.substr(0, prefix.num_bytes)
                                            : kReplacementCharacter;
    out.append(character.data(), character.size());
    at += prefix.num_bytes;
  }
  rest_.erase(0, at);
  return out;
}

std::string Utf8Stream::Finish() {
  if (rest_.empty()) return "";
  rest_.clear();
  return std::string(kReplacementCharacter);
}

std::string StopMatcher::Add(absl::string_view text, bool may_end) {
  if (matched_) return "";
  held_.append(text.data(), text.size());
  if (!may_end) num_passed_ = held_.size();
  size_t first_end = std::string::npos;
  size_t first_begin = 0;
  for (const std::string& stop : stop_) {
    const size_t begin = held_.find(stop, num_passed_ - std::min(num_passed_, stop.size() - 1));
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
  num_passed_ -= std::min(num_passed_, safe);
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
