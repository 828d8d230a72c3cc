#include "engine/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/chat_template_source.h"

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

void AddContent(absl::string_view content, ChatPrompt& prompt) {
  if (content.empty()) return;
  prompt.contents.push_back({prompt.text.size(), prompt.text.size() + content.size()});
  absl::StrAppend(&prompt.text, content);
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

absl::Status ChatTemplate::CheckContent(const ChatMessage& message, size_t index) const {
  for (const std::string& mark : format_.marks_in_text) {
    if (special_tokens_.contains(mark) || !absl::StrContains(message.content, mark)) continue;
    return absl::InvalidArgumentError(absl::StrCat("messages[", index, "].content contains ", mark,
                                                   ", a mark of the model's chat template; "
                                                   "wanted text without it"));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckRoles(std::span<const ChatMessage> messages) const {
  const bool begins_with_system = messages.front().role == "system";
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "user" && role != "assistant" && !(role == "system" && format_.has_system)) {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "].role is \"", role, "\"; wanted ",
                       format_.has_system ? "system, user or assistant" : "user or assistant",
                       " for ", format_.family));
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

void ChatTemplate::AddSystemMessage(absl::string_view content, bool is_first,
                                    ChatPrompt& prompt) const {
  if (format_.trims && !format_.system_in_user) content = StripWhitespace(content);
  // Only the first one is the system message of a preamble; later ones are messages like any.
  absl::StrAppend(&prompt.text, format_.system.before, is_first ? format_.system_preamble : "");
  AddContent(content, prompt);
  prompt.text.append(format_.system.after);
}

ChatPrompt ChatTemplate::Beginning(std::span<const ChatMessage> messages) const {
  ChatPrompt prompt = {.text = format_.opening, .contents = {}};
  if (format_.last_system_leads) {
    const size_t count = NumUpToLast(IsSystem, messages);
    if (count > 0) AddContent(messages[count - 1].content, prompt);
    return prompt;
  }
  const bool adds_system = format_.always_system || !format_.default_system.empty();
  if (messages.front().role != "system" && adds_system) {
    AddSystemMessage(format_.default_system, /*is_first=*/true, prompt);
  }
  return prompt;
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

absl::StatusOr<absl::string_view> ChatTemplate::AnswerThat(std::optional<bool> thinks) const {
  if (thinks.value_or(format_.thinks) == format_.thinks) return format_.answer;
  if (!*thinks && !format_.answer_without_thoughts.empty()) return format_.answer_without_thoughts;
  return absl::FailedPreconditionError(
      absl::StrCat("thinking is ", *thinks ? "true" : "false", ", but the model ",
                   *thinks ? "never" : "always", " thinks; wanted it left out"));
}

absl::StatusOr<ChatPrompt> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                std::optional<bool> thinks) const {
  if (messages.empty()) {
    return absl::InvalidArgumentError("messages is empty; wanted at least one");
  }
  RETURN_IF_ERROR(CheckRoles(messages));
  ASSIGN_OR_RETURN(const absl::string_view answer, AnswerThat(thinks));
  const size_t num_answered = NumUpToLast(IsQuestion, messages);
  ChatPrompt prompt = Beginning(messages);
  ChatPrompt before_user;  // a system message waiting for the user's
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    RETURN_IF_ERROR(CheckContent(message, i));
    if (message.role == "system") {
      if (format_.last_system_leads) continue;
      AddSystemMessage(message.content, /*is_first=*/i == 0,
                       format_.system_in_user ? before_user : prompt);
      continue;
    }
    const bool is_user = message.role == "user";
    const bool is_open = num_answered > 0 && i >= num_answered;
    const std::string content =
        is_user ? absl::StrCat(before_user.text, message.content)
                : AnswerContent(message.content, is_open, i + 1 == messages.size());
    const ChatFormat::Marks& marks = is_user ? format_.user : format_.assistant;
    prompt.text.append(marks.before);
    AddContent(format_.trims ? StripWhitespace(content) : content, prompt);
    prompt.text.append(marks.after);
    if (is_user) before_user = {};
  }
  absl::StrAppend(&prompt.text, answer);
  return prompt;
}

}  // namespace kvship
