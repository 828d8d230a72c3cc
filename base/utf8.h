// UTF-8 as RFC 3629 allows it: no overlong forms, no surrogates, nothing past U+10FFFF. Pure
// functions.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace kvship {

struct Utf8Prefix {
  enum Kind { kWhole, kUnfinished, kInvalid };
  size_t num_bytes = 0;  // at least 1
  Kind kind = kInvalid;
};

// The character, or the part of one, that `bytes` begins with; they must not be empty. The bytes of
// an invalid one are those that Unicode's recommendation replaces together (The Unicode Standard,
// section 3.9, "substitution of maximal subparts").
Utf8Prefix FirstCharacter(absl::string_view bytes);

// How many bytes of `text`, from its beginning, are valid: all of them if the text is.
size_t ValidUtf8Bytes(absl::string_view text);

// The beginning of `text` that is valid, at most `most_bytes` of it: whole characters.
absl::string_view CutUtf8(absl::string_view text, size_t most_bytes);

// UTF-8 text without the white space at its ends, as Python's str.strip() has it: Unicode's
// White_Space and the four separators from U+001C.
absl::string_view StripWhitespace(absl::string_view text);

}  // namespace kvship
