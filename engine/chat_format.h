// ChatFormat is what is known of one family of chat templates: the marks around each message.
// RecogniseChatFormat finds the family of a template's Jinja program by the expressions in it; the
// program itself is never run. Plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tool_call.h"

namespace kvship {

struct ChatFormat {
  // What stands before and after a message of one role.
  struct Marks {
    std::string before;
    std::string after;
  };

  std::string family;   // "chatml", "qwen3", "deepseek", "llama3", "llama2", "mistral" or "zephyr"
  std::string opening;  // before everything: the begin token's name, or empty
  Marks system;
  Marks user;
  Marks assistant;
  std::string answer;  // where the assistant's answer begins

  bool has_system = true;       // else a system message is refused
  bool system_in_user = false;  // the system message, in its marks, begins the first user message
  bool system_in_last = false;  // with that: not the first, but the last
  bool last_system_leads = false;  // of system messages the last stands before everything, alone
  bool alternates = false;         // after the system message: user, assistant, user, ...
  bool trims = false;              // white space around content, with what begins it, is dropped
  bool trims_answers = false;      // white space around the assistant's content is
  bool always_system = false;      // a system message is there even if it is empty
  std::string default_system;   // the system message of a conversation that has none; may be empty
  std::string system_preamble;  // inside the system message, before its content

  // Models that think before they answer write their thoughts between <think> and </think>.
  bool thinks = false;                  // here, unless it is told not to
  std::string answer_without_thoughts;  // where that answer begins; empty: it cannot be told
  // What becomes of them when the answer is sent back among the messages.
  enum class EarlierThoughts {
    kStay,
    kGo,
    kGoWhereAnswered,  // those behind the last question stay
  };
  EarlierThoughts earlier_thoughts = EarlierThoughts::kStay;

  // Tools: where the model is told which there are (with kLlama3 in the first user message, with
  // kHermes in the system's), and the marks around what one says.
  ToolSyntax tool_syntax = ToolSyntax::kNone;
  std::string preamble_of_tools;  // inside the system message, before its preamble
  std::string tools_before;
  std::string tools_after;
  Marks tool;

  std::vector<std::string> marks_in_text;  // what a message must not contain
};

// `begin_token` and `end_token` are the names that the program calls bos_token and eos_token, empty
// where the model has none. Unimplemented, with the program's beginning, if it is of no family that
// kvship knows or needs a token that the model does not have.
absl::StatusOr<ChatFormat> RecogniseChatFormat(absl::string_view program,
                                               const std::string& begin_token,
                                               const std::string& end_token);

}  // namespace kvship
