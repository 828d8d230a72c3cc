// CallReading is how far the calls of tools at the beginning of a text have been read, which grows
// while a model writes it: no byte is looked at more often than is needed. Plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "engine/json_text.h"
#include "engine/tool_call.h"

namespace kvship {

enum class CallState {
  kUnfinished,  // more text will tell
  kCalls,       // it has calls
  kNone,        // what looked like one is none
};

struct CallReading {
  std::vector<ToolCall> calls;
  size_t num_bytes = 0;  // of the calls, or of what is none: behind it one may begin again

  // Of a call that has not ended.
  size_t at = 0;        // bytes that were understood
  size_t searched = 0;  // bytes in which no end was found
  JsonEnd json = {};
  std::string name = {};
  std::string arguments = {};  // without their braces
};

// Whether text may go on to begin with `mark`, and does not yet.
inline bool MayBecome(absl::string_view text, absl::string_view mark) {
  return text.size() < mark.size() && absl::StartsWith(mark, text);
}

}  // namespace kvship
