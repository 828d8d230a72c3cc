// ChatProgram is a model's chat template as checkpoints carry it: a program in Jinja, which writes
// messages as the text that the model was tuned on. llama.cpp's engine runs it, with what
// transformers' apply_chat_template gives it. Immutable; any threads may use it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/chat_prompt.h"
#include "engine/chat_template_source.h"

namespace kvship {

// The id that programs are given of a conversation's first call.
inline constexpr absl::string_view kFirstCallId = "call00000";

class ChatProgram {
 public:
  // Unimplemented, with what is wrong and where, if it is no Jinja that the engine knows.
  static absl::StatusOr<ChatProgram> Parse(const ChatTemplateSource& source);

  struct Input {
    std::span<const ChatMessage> messages;
    std::span<const std::string> tools = {};  // each a JSON object
    // Whether the model is to think, to programs that ask; without it, as they do by themselves.
    std::optional<bool> enable_thinking = std::nullopt;
  };
  // The prompt, ending where the assistant's answer begins; its `contents` are the places where
  // messages and tools name special tokens. InvalidArgument: messages that the program refuses, in
  // its words, or a tool or arguments that are no JSON object.
  absl::StatusOr<ChatPrompt> Run(const Input& input) const;

  // Whether `text` has the name of a token that only the program may write.
  bool NamesSpecialToken(absl::string_view text) const;

 private:
  struct Parsed;  // what the engine has made of it
  ChatProgram(std::shared_ptr<const ChatTemplateSource> source,
              std::shared_ptr<const Parsed> parsed);

  std::shared_ptr<const ChatTemplateSource> source_;
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace kvship
