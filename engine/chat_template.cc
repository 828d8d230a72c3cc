#include "engine/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/chat_template_source.h"
#include "engine/chat_tools.h"

namespace kvship {
namespace {

absl::string_view WithoutFirstLineEnds(absl::string_view text) {
  while (absl::ConsumePrefix(&text, "\n")) continue;
  return text;
}

absl::string_view WithoutLineEnds(absl::string_view text) {
  while (absl::ConsumeSuffix(&text, "\n")) continue;
  return WithoutFirstLineEnds(text);
}

constexpr absl::string_view kThoughtsBegin = "<think>", kThoughtsEnd = "</think>";

// What follows the last thoughts; all of it if there are none.
absl::string_view AfterThoughts(absl::string_view content) {
  const size_t end = content.rfind(kThoughtsEnd);
  return end == absl::string_view::npos ? content : content.substr(end + kThoughtsEnd.size());
}

// The first thoughts; empty if there are none.
absl::string_view FirstThoughts(absl::string_view content) {
  const size_t end = content.find(kThoughtsEnd);
  if (end == absl::string_view::npos) return "";
  absl::string_view thoughts = content.substr(0, end);
  const size_t begin = thoughts.rfind(kThoughtsBegin);
  if (begin != absl::string_view::npos) thoughts.remove_prefix(begin + kThoughtsBegin.size());
  return WithoutLineEnds(thoughts);
}

// What Qwen3's template makes of an answer; `is_open`: no question follows.
std::string AnswerOfQwen3(absl::string_view content, bool is_open, bool is_last) {
  const absl::string_view thoughts = FirstThoughts(content);
  absl::string_view answer = AfterThoughts(content);
  if (answer.size() < content.size()) answer = WithoutFirstLineEnds(answer);
  if (!is_open || (!is_last && thoughts.empty())) return std::string(answer);
  return absl::StrCat(kThoughtsBegin, "\n", thoughts, "\n", kThoughtsEnd, "\n\n",
                      WithoutFirstLineEnds(answer));
}

// Whether an answer has anything beside thoughts that its template knows, and calls of tools.
bool SaysSomething(absl::string_view content, ChatFormat::EarlierThoughts thoughts) {
  const absl::string_view answer = AfterThoughts(content);
  const bool thinks = answer.size() < content.size();
  if (!thinks || thoughts == ChatFormat::EarlierThoughts::kStay) return !content.empty();
  return !WithoutFirstLineEnds(answer).empty();
}

bool IsSystem(const ChatMessage& message) { return message.role == "system"; }

// Qwen's way to give a model what a tool said is a user message, which asks nothing.
bool IsQuestion(const ChatMessage& message) {
  return message.role == "user" && !(absl::StartsWith(message.content, "<tool_response>") &&
                                     absl::EndsWith(message.content, "</tool_response>"));
}

// How many messages there are up to the last one that `is_it`; 0: there is none.
size_t NumUpToLast(bool (*is_it)(const ChatMessage&), std::span<const ChatMessage> messages) {
  size_t count = messages.size();
  while (count > 0 && !is_it(messages[count - 1])) --count;
  return count;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_path) {
  ASSIGN_OR_RETURN(ChatTemplateSource source, ReadChatTemplateSource(model_path));
  auto format = RecogniseChatFormat(source.program, source.begin_token, source.end_token);
  if (!format.ok()) {
    return absl::Status(format.status().code(),
                        absl::StrCat(source.where, ": ", format.status().message()));
  }
  return ChatTemplate(*std::move(format), source.special_tokens);
}

ChatTemplate::ChatTemplate(ChatFormat format, const std::vector<std::string>& special_tokens)
    : format_(std::move(format)), special_tokens_(special_tokens.begin(), special_tokens.end()) {}

absl::Status ChatTemplate::CheckText(absl::string_view text, absl::string_view path) const {
  for (const std::string& mark : format_.marks_in_text) {
    if (special_tokens_.contains(mark) || !absl::StrContains(text, mark)) continue;
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
  const bool begins_with_system = messages.front().role == "system";
  const bool has_tools = format_.tool_syntax != ToolSyntax::kNone;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "user" && role != "assistant" && !(role == "system" && format_.has_system) &&
        !(role == "tool" && has_tools)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "messages[", i, "].role is \"", role, "\"; wanted ", format_.has_system ? "system, " : "",
          has_tools ? "user, assistant or tool for " : "user or assistant for ", format_.family));
    }
    if (!format_.alternates || (i == 0 && begins_with_system)) continue;
    const bool is_users_turn = (i - (begins_with_system ? 1 : 0)) % 2 == 0;
    if (role != (is_users_turn ? "user" : "assistant")) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is \"", role,
                                                     "\"; wanted user and assistant in ",
                                                     "turn, the user first, for ", format_.family));
    }
  }
  if (format_.alternates && messages.back().role != "user") {
    return absl::InvalidArgumentError(absl::StrCat("messages[", messages.size() - 1, "].role is \"",
                                                   messages.back().role,
                                                   "\"; wanted the user's message last"));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckToolCalls(std::span<const ChatMessage> messages) const {
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.tool_calls.empty()) continue;
    absl::string_view wanted;
    if (format_.tool_syntax == ToolSyntax::kNone) {
      wanted = "none, as the model's chat template speaks of no tools";
    } else if (message.role != "assistant") {
      wanted = "none but in messages of the assistant";
    } else {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].tool_calls has ",
                                                   message.tool_calls.size(), " of them; wanted ",
                                                   wanted));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckUserIsFirst(std::span<const ChatMessage> messages) const {
  const size_t first = IsSystem(messages.front()) ? 1 : 0;
  if (first < messages.size() && messages[first].role == "user") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("messages[", first, "] is not the user's; wanted that, as ", format_.family,
                   " has the tools in the user's first message"));
}

void ChatTemplate::AddSystemMessage(absl::string_view content, const SystemParts* first,
                                    ChatPrompt& prompt) const {
  if (format_.trims && !format_.system_in_user) content = StripWhitespace(content);
  absl::StrAppend(&prompt.text, format_.system.before, first == nullptr ? "" : first->preamble);
  prompt.AddContent(content);
  if (first != nullptr && !first->tools.text.empty()) {
    if (!content.empty()) prompt.text.append("\n\n");
    prompt.Append(first->tools);
  }
  prompt.text.append(format_.system.after);
}

ChatPrompt ChatTemplate::Beginning(std::span<const ChatMessage> messages,
                                   const SystemParts& first) const {
  ChatPrompt prompt = {.text = format_.opening, .contents = {}};
  if (format_.last_system_leads) {
    const size_t count = NumUpToLast(IsSystem, messages);
    if (count > 0) prompt.AddContent(messages[count - 1].content);
    return prompt;
  }
  const bool adds_system =
      format_.always_system || !format_.default_system.empty() || !first.tools.text.empty();
  if (messages.front().role != "system" && adds_system) {
    AddSystemMessage(format_.default_system, &first, prompt);
  }
  return prompt;
}

std::string ChatTemplate::CallBeginning(absl::string_view name) const {
  ChatPrompt call;
  AddCallBeginning(format_, name, call);
  return call.text;
}

std::string ChatTemplate::AnswerContent(absl::string_view content, bool is_open,
                                        bool is_last) const {
  switch (format_.earlier_thoughts) {
    case ChatFormat::EarlierThoughts::kStay: break;
    case ChatFormat::EarlierThoughts::kGo: content = AfterThoughts(content); break;
    case ChatFormat::EarlierThoughts::kGoWhereAnswered:
      return AnswerOfQwen3(content, is_open, is_last);
  }
  return std::string(content);
}

absl::StatusOr<absl::string_view> ChatTemplate::AnswerThat(const Options& options) const {
  std::optional<bool> thinks = options.thinks;
  if (options.forced_call || options.answers_at_once) {
    const bool must_think = format_.thinks && format_.answer_without_thoughts.empty();
    if (must_think || thinks.value_or(false)) {
      return absl::FailedPreconditionError(
          "thinking stands before an answer, which here is to begin at once; wanted a model that "
          "need not think, and thinking left out or false");
    }
    thinks = false;
  }
  if (thinks.value_or(format_.thinks) == format_.thinks) return format_.answer;
  if (!*thinks && !format_.answer_without_thoughts.empty()) return format_.answer_without_thoughts;
  return absl::FailedPreconditionError(
      absl::StrCat("thinking is ", *thinks ? "true" : "false", ", but the model ",
                   *thinks ? "never" : "always", " thinks; wanted it left out"));
}

void ChatTemplate::AddAnswer(const ChatMessage& message, bool is_open, bool is_last,
                             ChatPrompt& prompt) const {
  prompt.text.append(format_.assistant.before);
  const bool calls_alone =
      format_.tool_syntax == ToolSyntax::kLlama3 && !message.tool_calls.empty();
  if (!calls_alone) {
    const std::string content = AnswerContent(message.content, is_open, is_last);
    const bool trims = format_.trims || format_.trims_answers;
    prompt.AddContent(trims ? StripWhitespace(content) : content);
  }
  AddToolCalls(format_, message.tool_calls,
               !calls_alone && SaysSomething(message.content, format_.earlier_thoughts), prompt);
  prompt.text.append(format_.assistant.after);
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
  RETURN_IF_ERROR(CheckToolCalls(messages));
  RETURN_IF_ERROR(CheckTexts(messages, options.tools));
  ASSIGN_OR_RETURN(const absl::string_view answer, AnswerThat(options));
  SystemParts first = {.preamble = format_.system_preamble, .tools = {}};
  ChatPrompt tools_of_user;  // waiting for its first message
  if (!options.tools.empty()) {
    const bool in_user = format_.tool_syntax == ToolSyntax::kLlama3;
    if (in_user) RETURN_IF_ERROR(CheckUserIsFirst(messages));
    RETURN_IF_ERROR(AddTools(format_, options.tools, in_user ? tools_of_user : first.tools));
    first.preamble.insert(0, format_.preamble_of_tools);
  }
  const size_t num_answered = NumUpToLast(IsQuestion, messages);
  ChatPrompt prompt = Beginning(messages, first);
  ChatPrompt before_user;  // a system message waiting for the user's
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "system") {
      if (format_.last_system_leads) continue;
      // Only the first one is the system message of a preamble; later ones are messages like any.
      AddSystemMessage(message.content, i == 0 ? &first : nullptr,
                       format_.system_in_user ? before_user : prompt);
    } else if (message.role == "tool") {
      AddToolMessage(format_, messages, i, prompt);
    } else if (message.role == "assistant") {
      const bool is_open = num_answered > 0 && i >= num_answered;
      AddAnswer(message, is_open, i + 1 == messages.size(), prompt);
    } else {
      prompt.text.append(format_.user.before);
      prompt.Append(std::exchange(tools_of_user, {}));
      const bool is_place = !format_.system_in_last || i + 1 == messages.size();
      const std::string content =
          absl::StrCat(is_place ? std::exchange(before_user, {}).text : "", message.content);
      prompt.AddContent(format_.trims ? StripWhitespace(content) : content);
      prompt.text.append(format_.user.after);
    }
  }
  absl::StrAppend(&prompt.text, answer);
  if (options.forced_call) AddCallBeginning(format_, *options.forced_call, prompt);
  return prompt;
}

}  // namespace kvship
