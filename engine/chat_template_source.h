// ChatTemplateSource is a chat template as read from a checkpoint: the Jinja program, and the names
// of the tokens that it uses and that messages must not contain. Plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer.h"

namespace kvship {

struct ChatTemplateSource {
  std::string where;  // file and field, for messages
  std::string program = {};
  std::string begin_token = {};  // name; empty: the model has none
  std::string end_token = {};
  std::vector<std::string> special_tokens =
      {};  // names of all tokens that the tokenizer would parse
};

// Reads a GGUF file or a Hugging Face directory; `tokenizer` is the same model's. NotFound if the
// model has no chat template; InvalidArgument naming the file and the invalid field.
absl::StatusOr<ChatTemplateSource> ReadChatTemplateSource(const std::string& model_path,
                                                          const Tokenizer& tokenizer);

}  // namespace kvship
