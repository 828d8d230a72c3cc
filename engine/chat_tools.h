// What of a chat prompt speaks of tools, in the words of the family's template. Pure functions.
#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "engine/chat_format.h"
#include "engine/chat_prompt.h"

namespace kvship {

// The functions that the model may call, each a JSON object. InvalidArgument, naming tools[i], for
// what is none, and for any where the family knows no tools.
absl::Status AddTools(const ChatFormat& format, std::span<const std::string> tools,
                      ChatPrompt& prompt);

// How a call of the function `name` begins: up to its arguments or, where it is empty, to the name.
void AddCallBeginning(const ChatFormat& format, absl::string_view name, ChatPrompt& prompt);

// The calls of an assistant's message. `after_text`: it says something else before.
void AddToolCalls(const ChatFormat& format, std::span<const ToolCall> calls, bool after_text,
                  ChatPrompt& prompt);

// What the tool's message number `i` says, which may be one of several in a row.
void AddToolMessage(const ChatFormat& format, std::span<const ChatMessage> messages, size_t i,
                    ChatPrompt& prompt);

}  // namespace kvship
