// CallReading is the state of an incremental parser of tool calls at the beginning of a text that
// grows: the parser resumes where it stopped. Plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "engine/json_text.h"
#include "engine/tool_call.h"

namespace kvship {

enum class CallState {
  kUnfinished,  // undecided until more text comes
  kCalls,       // calls were read
  kNone,        // it only looked like a call
};

struct CallReading {
  std::vector<ToolCall> calls;
  size_t num_bytes = 0;  // of the calls, or of the text that is no call; a call may follow it

  // Of an unfinished call:
  size_t at = 0;        // bytes parsed; of Hermes' calls: up to and with the first end mark
  size_t searched = 0;  // bytes searched for an end in vain
  JsonEnd json = {};
  std::string name = {};
  std::string arguments = {};  // without their braces
};

// Whether `text` is a proper prefix of `mark`, so that more text may complete it.
inline bool MayBecome(absl::string_view text, absl::string_view mark) {
  return text.size() < mark.size() && absl::StartsWith(mark, text);
}

}  // namespace kvship
