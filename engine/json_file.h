// JSON files of a checkpoint's directory, and typed access to their fields. null counts as absent;
// a field of the wrong type is an error that names file and field. Pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct JsonFile {
  std::string path;  // for messages
  nlohmann::json content;
};

// NotFound: no such file. InvalidArgument: not JSON, or not an object at the top.
absl::StatusOr<JsonFile> ReadJsonFile(const std::string& path);

// As ReadJsonFile, for text in memory; `path` names its origin. `keep` sees every key of the
// top-level object, repeated ones too; an entry for which it returns false is dropped without being
// built.
absl::StatusOr<JsonFile> ParseJson(const std::string& path, absl::string_view text,
                                   const std::function<bool(const std::string& key)>& keep = {});

// A borrowed JSON object and its location for messages: "config.json: rope_scaling".
class JsonObject {
 public:
  explicit JsonObject(const JsonFile& file) : where_(file.path), object_(&file.content) {}
  JsonObject(std::string where, const nlohmann::json& object)
      : where_(std::move(where)), object_(&object) {}

  // The field's value; null if it is absent or null.
  const nlohmann::json* Find(absl::string_view field) const;

  // nullopt if absent or null; InvalidArgument if of another type.
  absl::StatusOr<std::optional<uint64_t>> Count(absl::string_view field) const;
  absl::StatusOr<std::optional<double>> Number(absl::string_view field) const;
  absl::StatusOr<std::optional<bool>> Flag(absl::string_view field) const;
  absl::StatusOr<std::optional<std::string>> Text(absl::string_view field) const;
  absl::StatusOr<std::optional<JsonObject>> Object(absl::string_view field) const;

  // As above, but InvalidArgument if absent.
  absl::StatusOr<uint64_t> RequiredCount(absl::string_view field) const;
  absl::StatusOr<std::string> RequiredText(absl::string_view field) const;

  absl::Status Bad(absl::string_view field, absl::string_view what) const;
  absl::Status Unimplemented(absl::string_view field, absl::string_view what) const;
  const std::string& where() const { return where_; }
  const nlohmann::json& fields() const { return *object_; }

 private:
  std::string where_;
  const nlohmann::json* object_;
};

}  // namespace kvship
