// The structure that a request holds its output to, JSON of a schema or calls of tools, written as
// a structural tag: JSON by which XGrammar is told of it. Pure functions; any bytes are fine.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tool_call.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// Empty: any output will do. `syntax` is how the model calls tools. InvalidArgument with a
// BadRequest detail: a schema is wrong, or says what cannot be held (decode_service/json_schema.h).
absl::StatusOr<std::string> OutputStructure(const v1::GenerateRequest& request, ToolSyntax syntax);

}  // namespace kvship
