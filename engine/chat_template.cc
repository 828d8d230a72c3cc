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

// An answer, and the thoughts it began with.
struct ThoughtAnswer {
  absl::string_view thoughts;
  absl::string_view answer;
};

ThoughtAnswer SplitThoughts(absl::string_view content) {
  constexpr absl::string_view kBegin = "<think>", kEnd = "</think>";
  const size_t end = content.find(kEnd);
  if (end == absl::string_view::npos) return {.thoughts = "", .answer = content};
  absl::string_view thoughts = content.substr(0, end);
  const size_t begin = thoughts.rfind(kBegin);
  if (begin != absl::string_view::npos) thoughts.remove_prefix(begin + kBegin.size());
  return {.thoughts = WithoutLineEnds(thoughts),
          .answer = WithoutFirstLineEnds(content.substr(content.rfind(kEnd) + kEnd.size()))};
}

// What the template makes of an answer whose model thinks; `is_open`: no user message follows.
std::string ContentOfThinker(absl::string_view content, bool is_open, bool is_last) {
  const ThoughtAnswer parts = SplitThoughts(content);
  if (!is_open || (!is_last && parts.thoughts.empty())) return std::string(parts.answer);
  return absl::StrCat("<think>\n", parts.thoughts, "\n</think>\n\n",
                      WithoutFirstLineEnds(parts.answer));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_path) {
  ASSIGN_OR_RETURN(ChatTemplateSource source, ReadChatTemplateSource(model_path));
  auto format = RecogniseChatFormat(source.program, source.begin_token, source.end_token);
  if (!format.ok()) {
    return absl::Status(format.status().code(),
                        absl::StrCat(source.where, ": ", format.status().message()));
  }
  return ChatTemplate(*std::move(format), std::move(source.special_tokens));
}

ChatTemplate::ChatTemplate(ChatFormat format, std::vector<std::string> special_tokens)
    : format_(std::move(format)), special_tokens_(std::move(special_tokens)) {}

absl::Status ChatTemplate::CheckContent(const ChatMessage& message, size_t index) const {
  for (const auto* names : {&format_.marks_in_text, &special_tokens_}) {
    for (const std::string& name : *names) {
      if (!absl::StrContains(message.content, name)) continue;
      return absl::InvalidArgumentError(absl::StrCat("messages[", index, "].content contains ",
                                                     name,
                                                     ", a mark of the model's chat template; "
                                                     "wanted text without it"));
    }
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

std::string ChatTemplate::SystemMessage(absl::string_view content) const {
  return absl::StrCat(format_.system.before, format_.system_preamble, content,
                      format_.system.after);
}

absl::StatusOr<absl::string_view> ChatTemplate::AnswerThat(std::optional<bool> thinks) const {
  if (thinks.value_or(format_.thinks) == format_.thinks) return format_.answer;
  if (!*thinks && !format_.answer_without_thoughts.empty()) return format_.answer_without_thoughts;
  return absl::FailedPreconditionError(
      absl::StrCat("thinking is ", *thinks ? "true" : "false", ", but the model ",
                   *thinks ? "never" : "always", " thinks; wanted it left out"));
}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                 std::optional<bool> thinks) const {
  if (messages.empty()) {
    return absl::InvalidArgumentError("messages is empty; wanted at least one");
  }
  RETURN_IF_ERROR(CheckRoles(messages));
  ASSIGN_OR_RETURN(const absl::string_view answer, AnswerThat(thinks));
  size_t num_answered = messages.size();  // up to the last user message
  while (num_answered > 0 && messages[num_answered - 1].role != "user") --num_answered;
  if (num_answered == 0) num_answered = messages.size();
  std::string prompt = format_.opening;
  if (messages.front().role != "system" &&
      (format_.always_system || !format_.default_system.empty())) {
    absl::StrAppend(&prompt, SystemMessage(format_.default_system));
  }
  std::string before_content;  // a system message waiting for the user's
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(CheckContent(messages[i], i));
    absl::string_view content = messages[i].content;
    std::string with_thoughts;
    if (messages[i].role == "system") {
      if (format_.trims && !format_.system_in_user) content = StripWhitespace(content);
      // Only the first one is the system message of a preamble; later ones are messages like any.
      const std::string text =
          i == 0 ? SystemMessage(content)
                 : absl::StrCat(format_.system.before, content, format_.system.after);
      (format_.system_in_user ? before_content : prompt).append(text);
      continue;
    }
    if (format_.drops_thoughts && messages[i].role == "assistant") {
      with_thoughts = ContentOfThinker(content, i >= num_answered, i + 1 == messages.size());
      content = with_thoughts;
    }
    const ChatFormat::Marks& marks = messages[i].role == "user" ? format_.user : format_.assistant;
    const std::string whole = absl::StrCat(before_content, content);
    absl::StrAppend(&prompt, marks.before, format_.trims ? StripWhitespace(whole) : whole,
                    marks.after);
    before_content.clear();
  }
  return absl::StrCat(prompt, answer);
}

}  // namespace kvship
