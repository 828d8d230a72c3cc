// ChatMessage is one turn of a conversation, ChatPrompt the text that a chat template makes of
// several. Plain data.
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
  // Where names of special tokens are text, as they do not come from the template: a range touches
  // every such name.
  std::vector<TextRange> contents;
};

}  // namespace kvship
