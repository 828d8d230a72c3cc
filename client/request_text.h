// How a person says a request's input, text or files, and the GenerateRequest it becomes. What only
// the server can know is left to it to check.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// Where the prompt comes from: exactly one of the first three.
struct PromptSource {
  std::string text = {};
  std::string text_file = {};
  std::string tokens_file = {};  // a JSON list of ids
  bool chat = false;             // the text is a user's message, `system` the one before it
  std::string system = {};
};

// Sets the request's input. Errors: InvalidArgument, or NotFound for a file that cannot be read.
absl::Status SetInput(const PromptSource& source, v1::GenerateRequest* request);

}  // namespace kvship
