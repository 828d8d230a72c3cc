// JSON as it comes from clients: ParseBody turns bytes that nobody has looked at into a tree that
// is safe to walk, and JsonFields reads an object of it field by field and refuses what is left
// over.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// InvalidArgument, naming the byte (from 1), for what is not JSON in valid UTF-8, is nested deeper
// than 64, or names a field of an object twice.
absl::StatusOr<nlohmann::ordered_json> ParseBody(absl::string_view body);

// One object's fields. Each is asked for by name and type; null is a field not given. The first
// thing that is wrong is kept for Finish, so that readers need not check at every step. Borrows the
// object. Not thread safe.
class JsonFields {
 public:
  // `path` stands before names in messages: "messages[0].". Anything but an object is an error.
  explicit JsonFields(const nlohmann::ordered_json& object, std::string path = "");

  std::optional<bool> Bool(const std::string& name);
  std::optional<std::string> Text(const std::string& name);
  std::optional<double> Number(const std::string& name);
  std::optional<double> Number(const std::string& name, double least, double most);
  std::optional<int64_t> Integer(const std::string& name, int64_t least, int64_t most);
  // For values of several types: null if the field is not given.
  const nlohmann::ordered_json* Value(const std::string& name);

  // The field may be left out or have the one value that this server supports.
  void Only(const std::string& name, const nlohmann::ordered_json& supported);
  // The field must be given.
  void Require(const std::string& name);
  // Unless `ok`, the field's value is wrong.
  void Check(bool ok, const std::string& name, absl::string_view wanted);
  // For errors found elsewhere.
  void Note(const absl::Status& error);

  // "messages[0].content".
  std::string PathOf(const std::string& name) const { return path_ + name; }

  // The first error. Without one: InvalidArgument for a field that nobody has asked for.
  absl::Status Finish() const;

 private:
  // "messages[0]"; empty: the body.
  absl::string_view ObjectPath() const;

  const nlohmann::ordered_json& object_;
  const std::string path_;
  std::set<std::string> asked_;
  absl::Status error_;
};

// A value for messages: its JSON, cut where it is long.
std::string ShortJson(const nlohmann::ordered_json& value);

}  // namespace kvship
