// Regular expressions of JSON schemas ("pattern"; ECMA-262). A part of json_schema.h.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct SchemaPattern {
  std::string text;  // for XGrammar, of the whole contents of strings, none with an escape
  size_t cost = 0;   // of compiling it (PatternPositions::Cost)
};

// What matches UTF-8 text in which `pattern` is found. InvalidArgument, to be read behind
// "wanted ": it is no regular expression, says what cannot be held (assertions but ^ and $ around
// the whole or an alternative of it, references to groups, Unicode's classes, flags), is too
// long, or wants a character that JSON writes with an escape, or an ASCII one of `without`.
absl::StatusOr<SchemaPattern> ReadSchemaPattern(absl::string_view pattern,
                                                absl::string_view without = "");

}  // namespace kvship
