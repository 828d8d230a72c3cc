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
#include "engine/chat_prompt.h"

namespace kvship {

class ChatTemplate {
 public:
  // From a GGUF file's metadata, or a directory's chat_template.jinja or tokenizer_config.json.
  // NotFound if the model has none; Unimplemented, with the program's beginning, if it is of no
  // family kvship knows.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_path);

  // `special_tokens` are the names that the tokenizer reads as tokens outside of `contents` alone.
  ChatTemplate(ChatFormat format, const std::vector<std::string>& special_tokens);

  struct Options {
    // Before it answers; without it, as the model does by itself.
    std::optional<bool> thinks = std::nullopt;
    // That the model may call, each a JSON object.
    std::span<const std::string> tools = {};
    // The answer begins with a call of this one, or, if it is empty, of one the model chooses.
    std::optional<std::string> forced_call = std::nullopt;
    // Without thoughts, as for a forced call.
    bool answers_at_once = false;
  };
  // The whole prompt, ending where the assistant's answer begins. It holds the begin token where
  // the template puts one: encode it with its contents as plain text, and put nothing before it.
  // InvalidArgument: no messages, a role or tools that the family does not have, roles in an order
  // it does not allow, or content with a mark of the template that is no special token, and so
  // could pass for another message. FailedPrecondition: the template cannot make the model think,
  // or not think, as is wanted or a call at once wants it.
  absl::StatusOr<ChatPrompt> Render(std::span<const ChatMessage> messages,
                                    const Options& options) const;
  absl::StatusOr<ChatPrompt> Render(std::span<const ChatMessage> messages) const {
    return Render(messages, {});
  }

  // What the prompt of a forced call ends with; the model's answer goes on from there.
  std::string CallBeginning(absl::string_view name) const;

  ToolSyntax tool_syntax() const { return format_.tool_syntax; }
  // Whether the model does so by itself.
  bool thinks() const { return format_.thinks; }
  absl::string_view family() const { return format_.family; }

 private:
  absl::StatusOr<absl::string_view> AnswerThat(const Options& options) const;
  absl::Status CheckText(absl::string_view text, absl::string_view path) const;
  absl::Status CheckTexts(std::span<const ChatMessage> messages,
                          std::span<const std::string> tools) const;
  absl::Status CheckRoles(std::span<const ChatMessage> messages) const;
  absl::Status CheckToolCalls(std::span<const ChatMessage> messages) const;
  absl::Status CheckUserIsFirst(std::span<const ChatMessage> messages) const;

  // What the first system message holds beside its content.
  struct SystemParts {
    std::string preamble;
    ChatPrompt tools;
  };
  // `first`: null in later ones.
  void AddSystemMessage(absl::string_view content, const SystemParts* first,
                        ChatPrompt& prompt) const;
  // What stands before the messages, which are not empty.
  ChatPrompt Beginning(std::span<const ChatMessage> messages, const SystemParts& first) const;
  // `is_open`: no question follows.
  void AddAnswer(const ChatMessage& message, bool is_open, bool is_last, ChatPrompt& prompt) const;
  std::string AnswerContent(absl::string_view content, bool is_open, bool is_last) const;

  ChatFormat format_;
  absl::flat_hash_set<std::string> special_tokens_;
};

}  // namespace kvship
