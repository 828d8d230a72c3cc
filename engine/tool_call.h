// Tools are functions that a model may ask its caller to call. ToolCall is one such wish, and
// CallSpelling how a family of models writes it. Plain data.
#pragma once

#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

struct ToolCall {
  std::string name;
  std::string arguments;  // a JSON object
};

// How families of models write their calls.
enum class ToolSyntax {
  kNone,    // they were not taught any
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
  absl::string_view mark = {};  // by which a call among text is known; empty: it stands among none
  absl::string_view other_mark = {};        // that models may begin one with, too
  absl::string_view before_all = {};        // calls
  absl::string_view before_name = {};       // which is written as in JSON if this ends with a quote
  absl::string_view before_arguments = {};  // behind the name
  absl::string_view after = {};
  absl::string_view between = {};  // calls
  absl::string_view after_all = {};
  // Names of tokens in them that are special ones in the vocabularies of such models.
  std::span<const absl::string_view> special_tokens = {};
};

const CallSpelling& SpellingOf(ToolSyntax syntax);

// How a call of the function `name` begins: up to its arguments or, where it is empty, to the name.
// Empty for kNone. A space before the arguments is left to the model, whose tokens begin with it.
std::string CallBeginning(ToolSyntax syntax, absl::string_view name);

}  // namespace kvship
