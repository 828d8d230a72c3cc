// ToolCallReader finds the calls of tools in what a model writes. It is fed pieces, however the
// text is cut, and gives what is sure by then: text at once, a call when it has ended. What looks
// like a call and is none stays text, so that nothing is lost. One per answer; not thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/tool_call.h"

namespace kvship {

class ToolCallReader {
 public:
  struct Found {
    std::string text;  // without white space at calls
    std::vector<ToolCall> calls;
  };

  // `thinks`: the answer begins with thoughts, up to </think>, in which nothing is a call.
  ToolCallReader(ToolSyntax syntax, bool thinks);

  Found Add(absl::string_view piece);
  // What is left at the end of the answer.
  Found Finish();

 private:
  enum class Place {
    kThoughts,
    kText,
    kCall,   // in what may be one
    kPlain,  // with kLlama3 in an answer that is none; with kNone everywhere
  };

  // Each takes what it can off the unread text; whether there may be more to take.
  bool Step(Found* found);
  bool StepInThoughts(Found* found);
  bool StepInText(Found* found);
  bool StepInCall(Found* found);
  bool BeginLlama3();
  // The unread text up to `bytes_read` is a call between its marks, or all of it is text.
  void EndHermesCall(size_t call_end, size_t bytes_read, Found* found);
  // `text`, which may be of them, stands for so many bytes of the unread text.
  void Give(absl::string_view text, size_t bytes_read, Found* found);

  const ToolSyntax syntax_;
  Place place_;
  bool has_called_ = false;
  std::string unread_;
  size_t call_begin_ = 0;  // in it: behind the mark of kHermes
  size_t searched_ = 0;    // of it, for the end of a call
};

}  // namespace kvship
