#include "engine/json_file.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"

namespace kvship {

using nlohmann::json;

absl::StatusOr<JsonFile> ParseJson(const std::string& path, absl::string_view text,
                                   const std::function<bool(const std::string& key)>& keep) {
  json content;
  if (keep) {
    const auto callback = [&keep](int depth, json::parse_event_t event, json& parsed) {
      return event != json::parse_event_t::key || depth != 1 ||
             keep(parsed.get_ref<const std::string&>());
    };
    content = json::parse(text.begin(), text.end(), callback, /*allow_exceptions=*/false);
  } else {
    content = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  }
  if (content.is_discarded() || !content.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, content.is_discarded() ? ": is not valid JSON; it is truncated or corrupt"
                                     : ": wanted a JSON object"));
  }
  return JsonFile{path, std::move(content)};
}

absl::StatusOr<JsonFile> ReadJsonFile(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return ParseJson(path, file.text());
}

const json* JsonObject::Find(absl::string_view field) const {
  const auto found = object_->find(std::string(field));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonObject::Bad(absl::string_view field, absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(where_, ": ", field, " ", what));
}

absl::Status JsonObject::Unimplemented(absl::string_view field, absl::string_view what) const {
  return absl::UnimplementedError(absl::StrCat(where_, ": ", field, " ", what));
}

absl::StatusOr<std::optional<uint64_t>> JsonObject::Count(absl::string_view field) const {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_unsigned()) return Bad(field, "is not an integer of 0 or more");
  return value->get<uint64_t>();
}

absl::StatusOr<std::optional<double>> JsonObject::Number(absl::string_view field) const {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) return Bad(field, "is not a number");
  return value->get<double>();
}

absl::StatusOr<std::optional<bool>> JsonObject::Flag(absl::string_view field) const {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return Bad(field, "is not true or false");
  return value->get<bool>();
}

absl::StatusOr<std::optional<std::string>> JsonObject::Text(absl::string_view field) const {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return Bad(field, "is not a string");
  return value->get<std::string>();
}

absl::StatusOr<std::optional<JsonObject>> JsonObject::Object(absl::string_view field) const {
  const json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) return Bad(field, "is not an object");
  return JsonObject(absl::StrCat(where_, ": ", field), *value);
}

absl::StatusOr<uint64_t> JsonObject::RequiredCount(absl::string_view field) const {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> value, Count(field));
  if (!value.has_value()) return Bad(field, "is missing; wanted an integer");
  return *value;
}

absl::StatusOr<std::string> JsonObject::RequiredText(absl::string_view field) const {
  ASSIGN_OR_RETURN(std::optional<std::string> value, Text(field));
  if (!value.has_value()) return Bad(field, "is missing; wanted a string");
  return *std::move(value);
}

}  // namespace kvship
