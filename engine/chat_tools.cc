#include "engine/chat_tools.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/json_text.h"

namespace kvship {
namespace {

constexpr size_t kLlama3Indent = 4;

std::string AsJson(const std::string& text) {
  using nlohmann::json;
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

bool IsTool(std::span<const ChatMessage> messages, size_t i) {
  return i < messages.size() && messages[i].role == "tool";
}

}  // namespace

absl::Status AddTools(const ChatFormat& format, std::span<const std::string> tools,
                      ChatPrompt& prompt) {
  if (tools.empty()) return absl::OkStatus();
  if (format.tool_syntax == ToolSyntax::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("tools has ", tools.size(), " of them; wanted none, as the model's chat ",
                     "template (", format.family, ") speaks of none"));
  }
  const bool is_llama3 = format.tool_syntax == ToolSyntax::kLlama3;
  prompt.text.append(format.tools_before);
  for (size_t i = 0; i < tools.size(); ++i) {
    const auto tool = PythonJson(tools[i], is_llama3 ? kLlama3Indent : 0);
    if (!tool.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("tools[", i, "] ", tool.status().message()));
    }
    if (!is_llama3) prompt.text.append("\n");
    prompt.AddContent(*tool);
    if (is_llama3) prompt.text.append("\n\n");
  }
  prompt.text.append(format.tools_after);
  return absl::OkStatus();
}

void AddCallBeginning(const ChatFormat& format, absl::string_view name, ChatPrompt& prompt) {
  const bool is_llama3 = format.tool_syntax == ToolSyntax::kLlama3;
  prompt.text.append(is_llama3 ? R"({"name": ")" : "<tool_call>\n{\"name\": \"");
  if (name.empty()) return;
  prompt.AddContent(name);
  prompt.text.append(is_llama3 ? R"(", "parameters":)" : R"(", "arguments":)");
}

void AddToolCalls(const ChatFormat& format, std::span<const ToolCall> calls, bool after_text,
                  ChatPrompt& prompt) {
  const bool is_llama3 = format.tool_syntax == ToolSyntax::kLlama3;
  for (const ToolCall& call : calls) {
    // Llama's template wants one, but models write several, and so they come back.
    if (std::exchange(after_text, true)) prompt.text.append(is_llama3 ? "; " : "\n");
    AddCallBeginning(format, call.name, prompt);
    prompt.text.append(" ");
    prompt.AddContent(call.arguments);
    prompt.text.append(is_llama3 ? "}" : "}\n</tool_call>");
  }
}

void AddToolMessage(const ChatFormat& format, std::span<const ChatMessage> messages, size_t i,
                    ChatPrompt& prompt) {
  if (format.tool_syntax == ToolSyntax::kLlama3) {
    prompt.text.append(format.tool.before);
    prompt.AddContent(AsJson(messages[i].content));
    prompt.text.append(format.tool.after);
    return;
  }
  const bool is_first = i == 0 || !IsTool(messages, i - 1);
  absl::StrAppend(&prompt.text, is_first ? format.tool.before : "\n", "<tool_response>\n");
  prompt.AddContent(messages[i].content);
  absl::StrAppend(&prompt.text, "\n</tool_response>",
                  IsTool(messages, i + 1) ? "" : format.tool.after);
}

}  // namespace kvship
