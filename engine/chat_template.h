// ChatTemplate turns chat messages into the prompt text a model was tuned on, by the program in
// Jinja that its checkpoint carries. Immutable.
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
  // From a GGUF file's metadata, or a directory's chat_template.jinja or tokenizer_config.json.
  // NotFound if the model has none; Unimplemented, with what is wrong, if it cannot be run.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_path);
  static absl::StatusOr<ChatTemplate> Create(const ChatTemplateSource& source);

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
  // InvalidArgument: no messages, what the template refuses, a role or tools that it does not have,
  // or content with a mark of the template that is no special token, and so could pass for another
  // message. FailedPrecondition: the template cannot make the model think, or not think, as is
  // wanted or a call at once wants it.
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
