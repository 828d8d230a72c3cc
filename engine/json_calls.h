// Calls of tools that models write as JSON: those of Hermes, Llama 3 and Mistral. Pure functions;
// any bytes are fine.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "engine/call_reading.h"

namespace kvship {

// `text` begins with <tool_call>, and is what it was for this `reading`, and more; `is_whole`: it
// does not grow any more. What is none goes to its </tool_call>.
CallState ReadHermesCall(absl::string_view text, bool is_whole, CallReading& reading);

// The same of a text that begins with one of Mistral's special tokens, of which [TOOL_CALLS] begins
// calls, as a list or as NAME[ARGS]{...}; the call's id that may stand there is not needed.
CallState ReadMistralCalls(absl::string_view text, bool is_whole, CallReading& reading);

// All of `text`: one or several, with semicolons between; none if it has anything else.
std::vector<ToolCall> Llama3Calls(absl::string_view text);

}  // namespace kvship
