// ProbeChatProgram runs a chat template on sample conversations to find out what it does with
// messages, tools and thoughts. A pure function; its result is plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/chat_program.h"
#include "engine/tool_call.h"

namespace kvship {

struct ChatTraits {
  bool has_system = false;  // it has a place for system messages
  // How it writes calls; kNone also if it does so in a way that kvship does not read.
  ToolSyntax tool_syntax = ToolSyntax::kNone;
  bool has_parallel_calls = false;  // with a syntax: several calls in one message
  // Models that think before they answer write their thoughts between <think> and </think>.
  bool thinks = false;          // this model does, unless told not to
  bool heeds_thinking = false;  // it can be told to think or not to
  // Marks around system, user and assistant messages that are not special tokens, so that a message
  // could forge them.
  std::vector<std::string> marks;
};

// Unimplemented if the program omits the user's message.
absl::StatusOr<ChatTraits> ProbeChatProgram(const ChatProgram& program);

}  // namespace kvship
