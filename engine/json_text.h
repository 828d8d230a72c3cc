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

// How many bytes the JSON value at the beginning of `text` has, an object or a list; 0: it does not
// end. What is between its ends need not be valid.
size_t JsonBytes(absl::string_view text);

}  // namespace kvship
