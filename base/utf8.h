// UTF-8 as RFC 3629 allows it: no overlong forms, no surrogates, nothing past U+10FFFF. Pure
// functions.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// U+FFFD, which stands for what is invalid.
inline constexpr absl::string_view kReplacementCharacter = "\xef\xbf\xbd";

struct Utf8Prefix {
  enum Kind { kWhole, kUnfinished, kInvalid };
  size_t num_bytes = 0;  // at least 1
  Kind kind = kInvalid;
};

// The character, or the part of one, at the beginning of `bytes`, which must not be empty. An
// invalid one has the bytes that Unicode recommends to replace together (The Unicode Standard,
// section 3.9, "substitution of maximal subparts").
Utf8Prefix FirstCharacter(absl::string_view bytes);

// The length in bytes of the longest valid prefix of `text`.
size_t ValidUtf8Bytes(absl::string_view text);

// The longest valid prefix of `text` in at most `most_bytes`, in whole characters.
absl::string_view CutUtf8(absl::string_view text, size_t most_bytes);

// The same text with kReplacementCharacter in the place of what is invalid.
std::string ReplaceInvalidUtf8(absl::string_view text);

// Strips white space from both ends of UTF-8 text as Python's str.strip() does: Unicode's
// White_Space and the four separators from U+001C.
absl::string_view StripWhitespace(absl::string_view text);

}  // namespace kvship
