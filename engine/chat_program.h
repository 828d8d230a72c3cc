// ChatProgram is a checkpoint's chat template: a Jinja program that renders messages as the text
// the model was tuned on. llama.cpp's Jinja engine runs it, with the inputs that transformers'
// apply_chat_template gives it. Immutable; any number of threads may use it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/chat_prompt.h"
#include "engine/chat_template_source.h"

namespace kvship {

// The call id that programs get for a conversation's first call.
inline constexpr absl::string_view kFirstCallId = "call00000";

class ChatProgram {
 public:
  // Unimplemented, with the fault and its place, if the engine cannot parse the program.
  static absl::StatusOr<ChatProgram> Parse(const ChatTemplateSource& source);

  struct Input {
    std::span<const ChatMessage> messages;
    std::span<const std::string> tools = {};  // each a JSON object
    // Whether the model should think, for programs that ask. Unset: the program's default.
    std::optional<bool> enable_thinking = std::nullopt;
  };
  // Renders the prompt, up to where the assistant's answer begins. Its `contents` are the places
  // where messages and tools name special tokens, but for marks of thoughts in what the assistant
  // said. InvalidArgument: the program refuses the messages (in its words), or a tool or arguments
  // are not a JSON object.
  absl::StatusOr<ChatPrompt> Run(const Input& input) const;

  // Whether `text` contains the name of a token that only the program may write.
  bool NamesSpecialToken(absl::string_view text) const;

 private:
  struct Parsed;  // the engine's parse of the program
  ChatProgram(std::shared_ptr<const ChatTemplateSource> source,
              std::shared_ptr<const Parsed> parsed);

  std::shared_ptr<const ChatTemplateSource> source_;
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace kvship
