// What a chat template does with messages, tools and thoughts, found by trying. Plain data, and a
// pure function.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/chat_program.h"
#include "engine/tool_call.h"

namespace kvship {

struct ChatTraits {
  bool has_system = false;  // it writes what a system message says
  // How it writes calls; kNone also where it does so in another way than those that kvship reads.
  ToolSyntax tool_syntax = ToolSyntax::kNone;
  bool has_parallel_calls = false;  // with a syntax: several in one message
  // Models that think before they answer write their thoughts between <think> and </think>.
  bool thinks = false;          // here, unless it is told not to
  bool heeds_thinking = false;  // it can be told to think, and not to
  // What stands between messages and is no special token, so that a message could write it.
  std::vector<std::string> marks;
};

// Unimplemented if the program does not write what a user says.
absl::StatusOr<ChatTraits> ProbeChatProgram(const ChatProgram& program);

}  // namespace kvship
