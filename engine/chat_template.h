// ChatTemplate renders chat messages as the prompt a model was tuned on, with the Jinja program in
// its checkpoint. Immutable; any number of threads may use it.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/chat_probe.h"
#include "engine/chat_program.h"
#include "engine/chat_prompt.h"

namespace kvship {

class ChatTemplate {
 public:
  // Reads a GGUF file's metadata, or a directory's chat_template.jinja or tokenizer_config.json;
  // `tokenizer` is the same model's. NotFound if the model has no template; Unimplemented, with the
  // reason, if it cannot be run.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_path,
                                           const Tokenizer& tokenizer);
  static absl::StatusOr<ChatTemplate> Create(const ChatTemplateSource& source);

  struct Options {
    // Whether the model thinks before it answers. Unset: the model's default.
    std::optional<bool> thinks = std::nullopt;
    // The tools that the model may call, each a JSON object.
    std::span<const std::string> tools = {};
    // The answer begins with a call of this tool or, if empty, of one that the model chooses.
    std::optional<std::string> forced_call = std::nullopt;
    // The answer has no thoughts before it; implied by forced_call.
    bool answers_at_once = false;
  };
  // Renders the whole prompt, up to where the assistant's answer begins. It includes the begin
  // token if the template does: encode it with its contents as plain text and prepend nothing.
  // InvalidArgument: no messages, messages that the template refuses, an unsupported role,
  // unsupported tools, a forced call without tools, or content with a mark of the template that is
  // not a special token and could forge a message. FailedPrecondition: the model cannot be made to
  // think, or not to, as the options require.
  absl::StatusOr<ChatPrompt> Render(std::span<const ChatMessage> messages,
                                    const Options& options) const;
  absl::StatusOr<ChatPrompt> Render(std::span<const ChatMessage> messages) const {
    return Render(messages, {});
  }

  const ChatTraits& traits() const { return traits_; }

 private:
  ChatTemplate(ChatProgram program, ChatTraits traits);

  absl::StatusOr<bool> WillThink(const Options& options) const;
  absl::Status CheckText(absl::string_view text, absl::string_view path) const;
  absl::Status CheckTexts(std::span<const ChatMessage> messages,
                          std::span<const std::string> tools) const;
  absl::Status CheckRoles(std::span<const ChatMessage> messages) const;
  absl::Status CheckTools(std::span<const ChatMessage> messages,
                          std::span<const std::string> tools) const;

  ChatProgram program_;
  ChatTraits traits_;
};

}  // namespace kvship
