// What the parameters of tools may be, as far as their schemas say it, for models that write
// arguments as bare text (ToolSyntax::kQwenXml): a text alone does not tell a number from a string.
// Immutable; pure functions.
#pragma once

#include <map>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/schema_types.h"

namespace kvship {

// The JSON value that a bare text stands for: itself where it is JSON of one of the types that is
// no string, else a string if that is among them. What fits none is itself where it is JSON. Python
// writes True, False and None, and so do chat templates.
std::string JsonOfText(absl::string_view text, const JsonTypes& types);

class ToolParameters {
 public:
  // Tools as chat templates are given them; those that are none are left out.
  explicit ToolParameters(std::span<const std::string> tools);

  const JsonTypes& TypesOf(absl::string_view tool, absl::string_view parameter) const;

 private:
  std::map<std::string, std::map<std::string, JsonTypes, std::less<>>, std::less<>> types_;
};

}  // namespace kvship
