// Parser of tool calls as Qwen3-Coder writes them (ToolSyntax::kQwenXml): marks as in XML, with
// bare text as arguments between them. Pure functions; any bytes are valid input.
#pragma once

#include "absl/strings/string_view.h"
#include "engine/call_reading.h"
#include "engine/tool_parameters.h"

namespace kvship {

// Ends an argument. Text that contains it can be an argument only if no mark of calls follows it.
inline constexpr absl::string_view kXmlValueEnd = "</parameter>";

// `text` begins with <tool_call> or, as some models omit that, with <function=, and extends the
// text that this `reading` last saw. `is_whole`: it will not grow.
CallState ReadXmlCall(absl::string_view text, bool is_whole, const ToolParameters& parameters,
                      CallReading& reading);

}  // namespace kvship
