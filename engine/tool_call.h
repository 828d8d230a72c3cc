// Tools are functions that a model may ask its caller to call. ToolCall is one such wish. Plain
// data.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

struct ToolCall {
  std::string name;
  std::string arguments;  // a JSON object
};

// How families of models write their calls.
enum class ToolSyntax {
  kNone,    // they were not taught any
  kHermes,  // <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>, any number, after text
  kLlama3,  // the answer is {"name": ..., "parameters": {...}}
};

// How a call of the function `name` begins: up to its arguments or, where it is empty, to the name.
// Empty for kNone.
std::string CallBeginning(ToolSyntax syntax, absl::string_view name);

}  // namespace kvship
