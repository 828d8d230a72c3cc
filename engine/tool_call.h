// Tools are functions that a model may ask its caller to call. ToolCall is one such request;
// CallSpelling is how a family of models writes it. Also the marks of thoughts, which come before
// calls. Plain data.
#pragma once

#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// Of thoughts, at the beginning of an answer; special tokens in some vocabularies.
inline constexpr absl::string_view kThoughtsBegin = "<think>", kThoughtsEnd = "</think>";

struct ToolCall {
  std::string name;
  std::string arguments;  // a JSON object
};

// How families of models write their calls.
enum class ToolSyntax {
  kNone,    // no calls
  kHermes,  // <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>, any number, after text
  kLlama3,  // the answer is {"name": ..., "parameters": {...}}
  // Qwen3-Coder's, any number, after text:
  // <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>
  kQwenXml,
  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], after text; in some with a space between
  kMistralList,
  kMistralSpacedList,
  kMistral,  // [TOOL_CALLS]NAME[ARGS]{...}, any number, after text
};

// All but kNone.
inline constexpr ToolSyntax kToolSyntaxes[] = {ToolSyntax::kHermes,
                                               ToolSyntax::kLlama3,
                                               ToolSyntax::kQwenXml,
                                               ToolSyntax::kMistralList,
                                               ToolSyntax::kMistralSpacedList,
                                               ToolSyntax::kMistral};

// The parts of calls, as chat templates have them.
struct CallSpelling {
  absl::string_view mark = {};  // begins a call after other text; empty: a call has no other text
  absl::string_view other_mark = {};        // begins a call, too
  absl::string_view before_all = {};        // before the first call
  absl::string_view before_name = {};       // the name is JSON-escaped if this ends with a quote
  absl::string_view before_arguments = {};  // after the name
  absl::string_view after = {};
  absl::string_view between = {};  // between two calls
  absl::string_view after_all = {};
  // Names in these parts that are special tokens in the vocabularies of such models.
  std::span<const absl::string_view> special_tokens = {};
  // Names in these parts that are special tokens in some of their vocabularies.
  std::span<const absl::string_view> maybe_special_tokens = {};
};

const CallSpelling& SpellingOf(ToolSyntax syntax);

// The beginning of a call of the function `name`, up to its arguments; up to the name if that is
// empty. Empty for kNone. A space before the arguments is left to the model: it begins a token.
std::string CallBeginning(ToolSyntax syntax, absl::string_view name);

}  // namespace kvship
