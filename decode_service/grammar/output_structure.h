// Makes the structure that constrains a request's output, JSON of a schema or tool calls, as a
// structural tag: the JSON that describes it to XGrammar. A pure function; any input bytes are
// safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/tool_call.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

inline constexpr int kMostTools = 128;  // OpenAI's limit

// Empty if the output is unconstrained. `syntax` is the model's tool call syntax. InvalidArgument
// with a BadRequest detail if a schema is wrong or unsupported (json_schema.h).
absl::StatusOr<std::string> OutputStructure(const v1::GenerateRequest& request, ToolSyntax syntax);

}  // namespace kvship
