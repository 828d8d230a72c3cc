// Makes a GenerateRequest's input from command-line text or files. What only the server can know is
// left to it to check.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// The source of the prompt: exactly one of the first three is set.
struct PromptSource {
  std::string text = {};
  std::string text_file = {};
  std::string tokens_file = {};  // a JSON list of ids
  bool chat = false;             // the text is a user's message, preceded by `system`
  std::string system = {};
};

// Requests carry only UTF-8: InvalidArgument, naming `source` and the byte, for any other text.
absl::Status CheckUtf8(absl::string_view source, absl::string_view text);

// Sets the request's input. Errors: InvalidArgument, or NotFound for a file that cannot be read.
absl::Status SetInput(const PromptSource& source, v1::GenerateRequest* request);

}  // namespace kvship
