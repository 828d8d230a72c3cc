#include "engine/tool_call.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {
namespace {

constexpr absl::string_view kMistralTokens[] = {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"};

constexpr absl::string_view kTagTokens[] = {"<tool_call>", "</tool_call>"};

constexpr CallSpelling kNoCalls = {};
constexpr CallSpelling kHermesCalls = {.mark = "<tool_call>",
                                       .before_name = "<tool_call>\n{\"name\": \"",
                                       .before_arguments = "\", \"arguments\": ",
                                       .after = "}\n</tool_call>",
                                       .between = "\n",
                                       .maybe_special_tokens = kTagTokens};
constexpr CallSpelling kLlama3Calls = {.before_name = "{\"name\": \"",
                                       .before_arguments = "\", \"parameters\": ",
                                       .after = "}",
                                       .between = "; "};
constexpr CallSpelling kQwenXmlCalls = {.mark = "<tool_call>",
                                        .other_mark = "<function=",
                                        .before_name = "<tool_call>\n<function=",
                                        .before_arguments = ">\n",
                                        .after = "</function>\n</tool_call>",
                                        .between = "\n",
                                        .maybe_special_tokens = kTagTokens};
constexpr CallSpelling kMistralCalls = {.mark = "[TOOL_CALLS]",
                                        .before_name = "[TOOL_CALLS]",
                                        .before_arguments = "[ARGS]",
                                        .special_tokens = kMistralTokens};
constexpr CallSpelling kMistralListCalls = {.mark = "[TOOL_CALLS]",
                                            .before_all = "[TOOL_CALLS][",
                                            .before_name = "{\"name\": \"",
                                            .before_arguments = "\", \"arguments\": ",
                                            .after = "}",
                                            .between = ", ",
                                            .after_all = "]",
                                            .special_tokens = kMistralTokens};
constexpr CallSpelling kMistralSpacedListCalls = [] {
  CallSpelling spelling = kMistralListCalls;
  spelling.before_all = "[TOOL_CALLS] [";
  return spelling;
}();

}  // namespace

const CallSpelling& SpellingOf(ToolSyntax syntax) {
  switch (syntax) {
    case ToolSyntax::kNone: break;
    case ToolSyntax::kHermes: return kHermesCalls;
    case ToolSyntax::kLlama3: return kLlama3Calls;
    case ToolSyntax::kQwenXml: return kQwenXmlCalls;
    case ToolSyntax::kMistralList: return kMistralListCalls;
    case ToolSyntax::kMistralSpacedList: return kMistralSpacedListCalls;
    case ToolSyntax::kMistral: return kMistralCalls;
  }
  return kNoCalls;
}

std::string CallBeginning(ToolSyntax syntax, absl::string_view name) {
  const CallSpelling& spelling = SpellingOf(syntax);
  std::string call = absl::StrCat(spelling.before_all, spelling.before_name);
  if (!name.empty()) {
    absl::StrAppend(&call, name, absl::StripSuffix(spelling.before_arguments, " "));
  }
  return call;
}

}  // namespace kvship
