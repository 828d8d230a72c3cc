// ChatTemplate turns chat messages into the prompt text a model was tuned on. Checkpoints carry
// their template as a Jinja program; kvship runs no Jinja: it recognises the families it knows by
// what the program contains, and refuses others rather than guess. Immutable.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/chat_format.h"
#include "engine/tokenizer.h"

namespace kvship {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// A prompt made of messages.
struct ChatPrompt {
  std::string text;
  std::vector<TextRange> contents;  // what the messages say, where names of special tokens are text
};

class ChatTemplate {
 public:
  // From a GGUF file's metadata, or a directory's chat_template.jinja or tokenizer_config.json.
  // NotFound if the model has none; Unimplemented, with the program's beginning, if it is of no
  // family kvship knows.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_path);

  // `special_tokens` are the names that the tokenizer reads as tokens outside of `contents` alone.
  ChatTemplate(ChatFormat format, const std::vector<std::string>& special_tokens);

  // The whole prompt, ending where the assistant's answer begins. It holds the begin token where
  // the template puts one: encode it with its contents as plain text, and put nothing before it.
  // `thinks`: whether the model is to think before it answers; without it, as it does by itself.
  // InvalidArgument: no messages, a role the family does not have, roles in an order it does not
  // allow, or content with a mark of the template that is no special token, and so could pass for
  // another message. FailedPrecondition: the template cannot make the model think, or not think.
  absl::StatusOr<ChatPrompt> Render(std::span<const ChatMessage> messages,
                                    std::optional<bool> thinks = std::nullopt) const;

  absl::string_view family() const { return format_.family; }

 private:
  absl::StatusOr<absl::string_view> AnswerThat(std::optional<bool> thinks) const;
  absl::Status CheckContent(const ChatMessage& message, size_t index) const;
  absl::Status CheckRoles(std::span<const ChatMessage> messages) const;
  void AddSystemMessage(absl::string_view content, bool is_first, ChatPrompt& prompt) const;
  // What stands before the messages, which are not empty.
  ChatPrompt Beginning(std::span<const ChatMessage> messages) const;
  // `is_open`: no question follows.
  std::string AnswerContent(absl::string_view content, bool is_open, bool is_last) const;

  ChatFormat format_;
  absl::flat_hash_set<std::string> special_tokens_;
};

}  // namespace kvship
