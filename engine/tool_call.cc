#include "engine/tool_call.h"

#include "absl/strings/str_cat.h"

namespace kvship {

std::string CallBeginning(ToolSyntax syntax, absl::string_view name) {
  if (syntax == ToolSyntax::kNone) return "";
  const bool is_llama3 = syntax == ToolSyntax::kLlama3;
  std::string call = is_llama3 ? R"({"name": ")" : "<tool_call>\n{\"name\": \"";
  if (!name.empty()) {
    absl::StrAppend(&call, name, is_llama3 ? R"(", "parameters":)" : R"(", "arguments":)");
  }
  return call;
}

}  // namespace kvship
