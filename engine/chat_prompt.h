// ChatMessage is one turn of a conversation, ChatPrompt the text that a chat template makes of
// several. Plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
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
  // What does not come from the template, where names of special tokens are text.
  std::vector<TextRange> contents;

  void AddContent(absl::string_view content) {
    if (content.empty()) return;
    contents.push_back({text.size(), text.size() + content.size()});
    text.append(content.data(), content.size());
  }
  void Append(const ChatPrompt& part) {
    for (const TextRange& range : part.contents) {
      contents.push_back({text.size() + range.begin, text.size() + range.end});
    }
    text.append(part.text);
  }
};

}  // namespace kvship
