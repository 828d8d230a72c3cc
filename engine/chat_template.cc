#include "engine/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/chat_template_source.h"

namespace kvship {

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_path,
                                                const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const ChatTemplateSource source, ReadChatTemplateSource(model_path, tokenizer));
  return Create(source);
}

absl::StatusOr<ChatTemplate> ChatTemplate::Create(const ChatTemplateSource& source) {
  const auto at = [&source](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(source.where, " ", status.message()));
  };
  absl::StatusOr<ChatProgram> program = ChatProgram::Parse(source);
  if (!program.ok()) return at(program.status());
  absl::StatusOr<ChatTraits> traits = ProbeChatProgram(*program);
  if (!traits.ok()) return at(traits.status());
  return ChatTemplate(*std::move(program), *std::move(traits));
}

ChatTemplate::ChatTemplate(ChatProgram program, ChatTraits traits)
    : program_(std::move(program)), traits_(std::move(traits)) {}

absl::Status ChatTemplate::CheckText(absl::string_view text, absl::string_view path) const {
  for (const std::string& mark : traits_.marks) {
    if (!absl::StrContains(text, mark)) continue;
    return absl::InvalidArgumentError(absl::StrCat(path, " contains ", mark,
                                                   ", a mark of the model's chat template; "
                                                   "wanted text without it"));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckTexts(std::span<const ChatMessage> messages,
                                      std::span<const std::string> tools) const {
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string path = absl::StrCat("messages[", i, "].");
    RETURN_IF_ERROR(CheckText(messages[i].content, path + "content"));
    for (const ToolCall& call : messages[i].tool_calls) {
      RETURN_IF_ERROR(CheckText(call.name, path + "tool_calls"));
      RETURN_IF_ERROR(CheckText(call.arguments, path + "tool_calls"));
    }
  }
  for (size_t i = 0; i < tools.size(); ++i) {
    RETURN_IF_ERROR(CheckText(tools[i], absl::StrCat("tools[", i, "]")));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckRoles(std::span<const ChatMessage> messages) const {
  const bool has_tools = traits_.tool_syntax != ToolSyntax::kNone;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "user" || role == "assistant" || (role == "system" && traits_.has_system) ||
        (role == "tool" && has_tools)) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "messages[", i, "].role is \"", role, "\"; wanted ", traits_.has_system ? "system, " : "",
        has_tools ? "user, assistant or tool" : "user or assistant", " for this model"));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckTools(std::span<const ChatMessage> messages,
                                      std::span<const std::string> tools) const {
  const bool knows_tools = traits_.tool_syntax != ToolSyntax::kNone;
  if (!knows_tools && !tools.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tools has ", tools.size(), " of them; wanted none, as the model's chat ",
                     "template speaks of none, or in a way that is not known"));
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.tool_calls.empty() || (knows_tools && message.role == "assistant")) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "messages[", i, "].tool_calls has ", message.tool_calls.size(), " of them; wanted ",
        knows_tools ? "none but in messages of the assistant"
                    : "none, as the model's chat template speaks of no tools"));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ChatTemplate::WillThink(const Options& options) const {
  std::optional<bool> thinks = options.thinks;
  if (options.forced_call || options.answers_at_once) {
    const bool must_think = traits_.thinks && !traits_.heeds_thinking;
    if (must_think || thinks.value_or(false)) {
      return absl::FailedPreconditionError(
          "thinking stands before an answer, which here is to begin at once; wanted a model that "
          "need not think, and thinking left out or false");
    }
    thinks = false;
  }
  const bool will_think = thinks.value_or(traits_.thinks);
  if (will_think == traits_.thinks || traits_.heeds_thinking) return will_think;
  return absl::FailedPreconditionError(
      absl::StrCat("thinking is ", will_think ? "true" : "false", ", but the model ",
                   will_think ? "never" : "always", " thinks; wanted it left out"));
}

absl::StatusOr<ChatPrompt> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                const Options& options) const {
  if (messages.empty()) {
    return absl::InvalidArgumentError("messages is empty; wanted at least one");
  }
  if (options.tools.empty() && options.forced_call) {
    return absl::InvalidArgumentError("tools is empty; wanted some for a forced call");
  }
  RETURN_IF_ERROR(CheckRoles(messages));
  RETURN_IF_ERROR(CheckTools(messages, options.tools));
  RETURN_IF_ERROR(CheckTexts(messages, options.tools));
  ASSIGN_OR_RETURN(const bool thinks, WillThink(options));
  ChatProgram::Input input = {.messages = messages, .tools = options.tools};
  if (thinks != traits_.thinks) input.enable_thinking = thinks;
  ASSIGN_OR_RETURN(ChatPrompt prompt, program_.Run(input));
  if (options.forced_call) {
    const size_t name = prompt.text.size() + CallBeginning(traits_.tool_syntax, "").size();
    prompt.text.append(CallBeginning(traits_.tool_syntax, *options.forced_call));
    if (!options.forced_call->empty()) {
      prompt.contents.push_back({name, name + options.forced_call->size()});
    }
  }
  return prompt;
}

}  // namespace kvship
