// JSON handled as text, because models read and write it so: the order of members and the digits of
// numbers stay as they are. Pure functions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// Writes an object on one line as Python's json.dumps does (and so tojson in chat templates), with
// ", " and ": ". Characters are not escaped. InvalidArgument "is not ..., wanted ..." if `object`
// is not one object of valid JSON in UTF-8, or is nested deeper than 64.
absl::StatusOr<std::string> PythonJson(absl::string_view object);

// The text of an object's member; nullopt if it has none of that name or `object` is not one object
// of valid JSON.
std::optional<absl::string_view> JsonMember(absl::string_view object, absl::string_view name);

// Whether `text` is one object of valid JSON, optionally surrounded by white space.
bool IsJsonObject(absl::string_view text);

// Writes `text` as a JSON string; invalid UTF-8 in it is replaced.
std::string JsonString(absl::string_view text);

// A value's JSON for messages; truncated if long.
std::string ShortJson(const nlohmann::ordered_json& value);

// Finds the end of a JSON object or list at the beginning of a text that grows. The content in
// between need not be valid.
class JsonEnd {
 public:
  // Its length in bytes, 0 if it has not ended. `text` extends the previous call's.
  size_t Find(absl::string_view text);
  // Whether the text that Find saw ends in a string that may be valid JSON.
  bool may_be_in_string() const { return is_in_string_ && !has_control_; }

 private:
  size_t at_ = 0;  // bytes scanned
  size_t depth_ = 0;
  bool is_in_string_ = false;
  bool has_control_ = false;  // a control character in the present string, which JSON escapes
};
inline size_t JsonBytes(absl::string_view text) { return JsonEnd().Find(text); }

}  // namespace kvship
