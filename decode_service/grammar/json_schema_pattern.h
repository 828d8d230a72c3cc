// Regular expressions of JSON schemas ("pattern"; ECMA-262). Part of json_schema.h. Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "decode_service/grammar/pattern_positions.h"

namespace kvship {

struct SchemaPattern {
  std::string text;  // for XGrammar; matches whole string contents, without escapes
  PatternPositions::Cost cost;
};

// Returns an expression for UTF-8 text that contains a match of `pattern`. InvalidArgument, to be
// appended to "wanted ", if `pattern` is no regular expression, uses an unsupported feature
// (assertions but ^ and $ around the whole or an alternative of it, back references, Unicode
// classes, flags), is too long, or needs a character that JSON escapes or an ASCII character of
// `without`.
absl::StatusOr<SchemaPattern> ReadSchemaPattern(absl::string_view pattern,
                                                absl::string_view without = "");

}  // namespace kvship
