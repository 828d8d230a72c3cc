// ChatTemplate turns chat messages into the prompt text a model was tuned on. Checkpoints carry
// their template as a Jinja program; kvship runs no Jinja: it recognises the families it knows by
// what the program contains, and refuses others rather than guess. Immutable.
#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  // From the model's GGUF metadata, tokenizer_config.json or chat_template.jinja. NotFound if the
  // model has none; Unimplemented, with the program's beginning, if it is of no family kvship
  // knows.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_path);

  // The prompt's text, ending where the assistant's answer begins, to be encoded with special
  // tokens parsed. InvalidArgument: no messages, a role the family does not have, roles in an order
  // it does not allow, or content that contains the name of a special token of the template.
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages) const;

  absl::string_view family() const { return family_; }

 private:
  std::string family_;          // "chatml", "llama3", ...
  std::string default_system_;  // put first where the conversation has no system message and the
                                // template says so
};

}  // namespace kvship
