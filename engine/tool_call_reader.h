// ToolCallReader finds tool calls in a model's output as it streams. It is fed pieces of any size
// and returns what is certain so far: text at once, a call when it has ended. Text that only looks
// like a call stays text, so nothing is lost except names of special tokens that belong to calls.
// Thoughts' marks stay, whatever they are.
// One per answer; not thread safe.
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
    std::string text;  // without white space before calls
    std::vector<ToolCall> calls;
  };

  // `thinks`: the answer begins with thoughts, up to </think>, which contain no calls. `tools` are
  // those that the model was given. `special_tokens` are names of calls' marks that are special
  // tokens in its vocabulary; those of the syntax that always are need not be there.
  ToolCallReader(ToolSyntax syntax, bool thinks, std::span<const std::string> tools = {},
                 std::span<const std::string> special_tokens = {});

  Found Add(absl::string_view piece);
  // Returns what is left at the end of the answer.
  Found Finish();

 private:
  enum class Place {
    kThoughts,
    kText,
    kCall,   // in a possible call
    kPlain,  // with kNone, or in a kLlama3 answer that is no call
  };

  // Each consumes what it can of the unread text and returns whether there may be more to consume.
  // `is_whole`: no more text will come.
  bool Step(bool is_whole, Found* found);
  bool StepInThoughts(Found* found);
  bool StepInText(bool is_whole, Found* found);
  bool StepInCall(bool is_whole, Found* found);
  bool BeginLlama3();
  CallState ReadCall(bool is_whole);
  std::string WithoutSpecialTokens(absl::string_view text) const;
  // `text` without what at its end may be the beginning of a special token's name.
  absl::string_view BeforeSpecialToken(absl::string_view text) const;
  // Emits `text`, which may alias unread_, for the first `bytes_read` unread bytes.
  void Give(absl::string_view text, size_t bytes_read, Found* found);

  ToolSyntax syntax_;
  // shared: readers of several choices have the same
  std::shared_ptr<const ToolParameters> parameters_;
  std::vector<std::string> special_tokens_;  // names, which are never in the text
  Place place_;
  bool has_called_ = false;
  std::string unread_;
  size_t call_begin_ = 0;  // in unread_
  CallReading reading_;
};

}  // namespace kvship
