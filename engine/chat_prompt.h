// ChatMessage is one turn of a conversation; ChatPrompt is the text that a chat template renders
// from several. Plain data.
#pragma once

#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "engine/tool_call.h"

namespace kvship {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant" or "tool"
  std::string content;
  std::vector<ToolCall> tool_calls = {};  // the assistant's
};

struct ChatPrompt {
  std::string text;
  // Ranges where special-token names are plain text because they are not the template's own. Every
  // such name is touched by a range.
  std::vector<TextRange> contents;
};

}  // namespace kvship
