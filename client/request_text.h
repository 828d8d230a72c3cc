// How a person says a request: text, files and the options' text form, and the GenerateRequest they
// become. What only the server can know is left to it to check.
#pragma once

#include <string>

#include "absl/status/statusor.h"
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

// Sets the request's input. Errors: InvalidArgument, or NotFound for a file that cannot be read.
absl::Status SetInput(const PromptSource& source, v1::GenerateRequest* request);

// The options named in "scorer=snapkv,budget_tokens=512"; those left out stay unset, for the server
// to fill in. Errors: as SetCompressionOption.
absl::StatusOr<v1::CompressionOptions> CompressionFromText(absl::string_view text);

}  // namespace kvship
