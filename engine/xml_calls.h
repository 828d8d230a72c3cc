// Calls of tools as Qwen3-Coder writes them (ToolSyntax::kQwenXml): marks as in XML, between which
// arguments are bare text. Pure functions; any bytes are fine.
#pragma once

#include "absl/strings/string_view.h"
#include "engine/call_reading.h"
#include "engine/tool_parameters.h"

namespace kvship {

// What ends an argument; a text that has it may be one only if no mark of calls comes behind it.
inline constexpr absl::string_view kXmlValueEnd = "</parameter>";

// `text` begins with <tool_call> or, as models leave it out at times, with <function=, and is what
// it was for this `reading`, and more; `is_whole`: it does not grow any more.
CallState ReadXmlCall(absl::string_view text, bool is_whole, const ToolParameters& parameters,
                      CallReading& reading);

}  // namespace kvship
