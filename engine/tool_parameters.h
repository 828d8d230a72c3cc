// The types of tools' parameters, as far as their schemas state them. Models that write arguments
// as bare text (ToolSyntax::kQwenXml) need them: text alone does not tell a number from a string.
// Immutable; pure functions.
#pragma once

#include <map>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/schema_types.h"

namespace kvship {

// The JSON value of a bare text: the text itself if it is JSON of one of the types other than
// string, else a string if the types allow it. Text that fits no type stays itself if it is JSON.
// Python's True, False and None are accepted, because chat templates write them.
std::string JsonOfText(absl::string_view text, const JsonTypes& types);

class ToolParameters {
 public:
  // `tools` are as chat templates get them; entries that are not tools are skipped.
  explicit ToolParameters(std::span<const std::string> tools);

  const JsonTypes& TypesOf(absl::string_view tool, absl::string_view parameter) const;

 private:
  std::map<std::string, std::map<std::string, JsonTypes, std::less<>>, std::less<>> types_;
};

}  // namespace kvship
