// Parsers of tool calls that models write as JSON: those of Hermes, Llama 3 and Mistral. Pure
// functions; any bytes are valid input.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "engine/call_reading.h"

namespace kvship {

// `text` begins with <tool_call>, and extends the text that this `reading` last saw. `is_whole`: it
// will not grow. A string of the call may have </tool_call>. Text that is no call extends to its
// first </tool_call>.
CallState ReadHermesCall(absl::string_view text, bool is_whole, CallReading& reading);

// As ReadHermesCall, for text that begins with one of Mistral's special tokens. Only [TOOL_CALLS]
// begins calls, a list or NAME[ARGS]{...}; a call id that may precede [ARGS] is skipped.
CallState ReadMistralCalls(absl::string_view text, bool is_whole, CallReading& reading);

// Reads all of `text` as calls, separated by semicolons; none if it has anything else.
std::vector<ToolCall> Llama3Calls(absl::string_view text);

}  // namespace kvship
