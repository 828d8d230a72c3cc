// JSON whose spelling counts, as a model reads it and writes it: taken as text, so that the order
// of members and the digits of numbers stay as they are. Pure functions.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// An object in one line in the spelling of Python's json.dumps, which chat templates print by
// tojson, with ", " and ": ". Characters are themselves, not escapes. InvalidArgument "is not ...,
// wanted ...": it is not one object of valid JSON in UTF-8, or nested deeper than 64.
absl::StatusOr<std::string> PythonJson(absl::string_view object);

// The value of an object's member as it stands there; nothing where it has none of that name, or
// `object` is no object of valid JSON.
std::optional<absl::string_view> JsonMember(absl::string_view object, absl::string_view name);

// Whether `text` is one object of valid JSON, with white space around it or without.
bool IsJsonObject(absl::string_view text);

// Finds the end of an object or a list of JSON at the beginning of a text that grows. What is
// between its ends need not be valid.
class JsonEnd {
 public:
  // How many bytes it has; 0: it does not end yet. `text` is what it was the last time, and more.
  size_t Find(absl::string_view text);

 private:
  size_t at_ = 0;  // bytes that were looked at
  size_t depth_ = 0;
  bool is_in_string_ = false;
};
inline size_t JsonBytes(absl::string_view text) { return JsonEnd().Find(text); }

}  // namespace kvship
