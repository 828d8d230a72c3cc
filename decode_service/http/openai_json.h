// Parses JSON from clients: ParseBody turns untrusted bytes into a tree that is safe to walk;
// JsonFields reads an object of it field by field and rejects unknown fields.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// InvalidArgument, naming the byte (from 1), if `body` is not JSON in valid UTF-8, nests deeper
// than 64, has a field twice in one object, or has more than `most_values` values other than
// numbers in lists.
absl::StatusOr<nlohmann::ordered_json> ParseBody(absl::string_view body, size_t most_values);

// Reads one object's fields by name and type; null counts as absent. Keeps the first error for
// Finish, so that callers need not check at every step. Borrows the object. Not thread safe.
class JsonFields {
 public:
  // `path` is the prefix of names in messages: "messages[0].". Anything but an object is an error.
  explicit JsonFields(const nlohmann::ordered_json& object, std::string path = "");

  std::optional<bool> Bool(const std::string& name);
  std::optional<std::string> Text(const std::string& name);
  std::optional<double> Number(const std::string& name);
  std::optional<double> Number(const std::string& name, double least, double most);
  std::optional<int64_t> Integer(const std::string& name, int64_t least, int64_t most);
  // For values of several types: null if the field is absent.
  const nlohmann::ordered_json* Value(const std::string& name);

  // The field must be absent or have the one value that this server supports.
  void Only(const std::string& name, const nlohmann::ordered_json& supported);
  // The field must be present.
  void Require(const std::string& name);
  // Records that the field's value is wrong, unless `ok`.
  void Check(bool ok, const std::string& name, absl::string_view wanted);
  // Records an error found elsewhere.
  void Note(const absl::Status& error);

  // "messages[0].content".
  std::string PathOf(const std::string& name) const { return path_ + name; }

  // Returns the first error, else InvalidArgument for a field that was never read.
  absl::Status Finish() const;

 private:
  // "messages[0]"; empty: the body.
  absl::string_view ObjectPath() const;

  const nlohmann::ordered_json& object_;
  const std::string path_;
  std::set<std::string> asked_;
  absl::Status error_;
};

}  // namespace kvship
