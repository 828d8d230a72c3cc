// How a person says a request's input, text or files, and the GenerateRequest it becomes. What only
// the server can know is left to it to check.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
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

// Requests carry nothing else: InvalidArgument, naming `source` and the byte, for a text that is
// not UTF-8.
absl::Status CheckUtf8(absl::string_view source, absl::string_view text);

// Sets the request's input. Errors: InvalidArgument, or NotFound for a file that cannot be read.
absl::Status SetInput(const PromptSource& source, v1::GenerateRequest* request);

}  // namespace kvship
