// ToolCallReader finds the calls of tools in what a model writes. It is fed pieces, however the
// text is cut, and gives what is sure by then: text at once, a call when it has ended. What looks
// like a call and is none stays text, so that nothing is lost but names of special tokens that
// belong to calls. One per answer; not thread safe.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/call_reading.h"
#include "engine/tool_call.h"
#include "engine/tool_parameters.h"

namespace kvship {

class ToolCallReader {
 public:
  struct Found {
    std::string text;  // without white space at calls
    std::vector<ToolCall> calls;
  };

  // `thinks`: the answer begins with thoughts, up to </think>, in which nothing is a call. `tools`
  // are those that the model was told of.
  ToolCallReader(ToolSyntax syntax, bool thinks, std::span<const std::string> tools = {});

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

  // Each takes what it can off the unread text; whether there may be more to take. `is_whole`: no
  // more is to come.
  bool Step(bool is_whole, Found* found);
  bool StepInThoughts(Found* found);
  bool StepInText(bool is_whole, Found* found);
  bool StepInCall(bool is_whole, Found* found);
  bool BeginLlama3();
  CallState ReadCall(bool is_whole);
  // `text`, which may be of them, stands for so many bytes of the unread text.
  void Give(absl::string_view text, size_t bytes_read, Found* found);

  const ToolSyntax syntax_;
  // shared: readers of several choices have the same
  const std::shared_ptr<const ToolParameters> parameters_;
  Place place_;
  bool has_called_ = false;
  std::string unread_;
  size_t call_begin_ = 0;  // in it
  CallReading reading_;
};

}  // namespace kvship
