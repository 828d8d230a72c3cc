#include "engine/tool_call_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/json_calls.h"
#include "engine/xml_calls.h"

namespace kvship {
namespace {

// `text` without what at its end may be the beginning of `mark`.
absl::string_view BeforeMark(absl::string_view text, absl::string_view mark) {
  size_t bytes = std::min(text.size(), mark.size() - 1);
  while (!absl::EndsWith(text, mark.substr(0, bytes))) --bytes;
  return text.substr(0, text.size() - bytes);
}

}  // namespace

ToolCallReader::ToolCallReader(ToolSyntax syntax, bool thinks, std::span<const std::string> tools,
                               std::span<const std::string> special_tokens)
    : syntax_(syntax),
      parameters_(std::make_shared<ToolParameters>(
          syntax == ToolSyntax::kQwenXml ? tools : std::span<const std::string>())),
      special_tokens_(special_tokens.begin(), special_tokens.end()),
      place_(syntax == ToolSyntax::kNone ? Place::kPlain
             : thinks                    ? Place::kThoughts
                                         : Place::kText) {
  for (const absl::string_view name : SpellingOf(syntax).special_tokens) {
    if (std::find(special_tokens.begin(), special_tokens.end(), name) == special_tokens.end()) {
      special_tokens_.emplace_back(name);
    }
  }
}

ToolCallReader::Found ToolCallReader::Add(absl::string_view piece) {
  Found found;
  absl::StrAppend(&unread_, piece);
  while (Step(/*is_whole=*/false, &found)) continue;
  return found;
}

void ToolCallReader::Give(absl::string_view text, size_t bytes_read, Found* found) {
  absl::StrAppend(&found->text, text);
  unread_.erase(0, bytes_read);
}

bool ToolCallReader::Step(bool is_whole, Found* found) {
  const bool is_llama3 = syntax_ == ToolSyntax::kLlama3;
  switch (place_) {
    case Place::kThoughts: return StepInThoughts(found);
    case Place::kText: return is_llama3 ? BeginLlama3() : StepInText(is_whole, found);
    case Place::kCall: return is_llama3 ? false : StepInCall(is_whole, found);
    case Place::kPlain: Give(unread_, unread_.size(), found); return false;
  }
  return false;
}

bool ToolCallReader::StepInThoughts(Found* found) {
  const absl::string_view unread = unread_;
  const size_t end = unread.find(kThoughtsEnd);
  const bool ends = end != absl::string_view::npos;
  // The shorter one.
  absl::string_view thoughts =
      std::min(BeforeMark(unread, kThoughtsEnd), BeforeSpecialToken(unread));
  if (ends) {
    place_ = Place::kText;
    thoughts = unread.substr(0, end + kThoughtsEnd.size());
  }
  Give(WithoutSpecialTokens(thoughts), thoughts.size(), found);
  return ends;
}

bool ToolCallReader::StepInText(bool is_whole, Found* found) {
  const absl::string_view unread = unread_;
  absl::string_view text = is_whole ? unread : BeforeSpecialToken(unread);
  size_t call = absl::string_view::npos;
  const CallSpelling& spelling = SpellingOf(syntax_);
  for (const absl::string_view mark : {spelling.mark, spelling.other_mark}) {
    if (mark.empty()) continue;
    call = std::min(call, unread.find(mark));
    if (!is_whole) text = std::min(text, BeforeMark(unread, mark));  // the shorter one
  }
  const bool calls = call != absl::string_view::npos;
  if (calls) text = unread.substr(0, call);
  text = absl::StripTrailingAsciiWhitespace(text);
  if (calls) {
    place_ = Place::kCall;
    call_begin_ = call - text.size();
    reading_ = CallReading();
  }
  Give(WithoutSpecialTokens(text), text.size(), found);
  return calls;
}

std::string ToolCallReader::WithoutSpecialTokens(absl::string_view text) const {
  std::vector<std::pair<absl::string_view, absl::string_view>> names;
  for (const std::string& name : special_tokens_) names.emplace_back(name, "");
  return absl::StrReplaceAll(text, names);
}

absl::string_view ToolCallReader::BeforeSpecialToken(absl::string_view text) const {
  absl::string_view before = text;
  for (const std::string& name : special_tokens_) {
    before = std::min(before, BeforeMark(text, name));  // the shorter one
  }
  return before;
}

CallState ToolCallReader::ReadCall(bool is_whole) {
  const absl::string_view text = absl::string_view(unread_).substr(call_begin_);
  switch (syntax_) {
    case ToolSyntax::kHermes: return ReadHermesCall(text, is_whole, reading_);
    case ToolSyntax::kQwenXml: return ReadXmlCall(text, is_whole, *parameters_, reading_);
    default: return ReadMistralCalls(text, is_whole, reading_);
  }
}

bool ToolCallReader::StepInCall(bool is_whole, Found* found) {
  const CallState state = ReadCall(is_whole);
  if (state == CallState::kUnfinished) return false;
  const size_t bytes = call_begin_ + reading_.num_bytes;
  std::string text;
  if (state == CallState::kCalls) {
    for (ToolCall& call : reading_.calls) found->calls.push_back(std::move(call));
    has_called_ = true;
  } else {
    text = WithoutSpecialTokens(absl::string_view(unread_).substr(0, bytes));
  }
  Give(text, bytes, found);
  place_ = Place::kText;
  return true;
}

bool ToolCallReader::BeginLlama3() {
  const absl::string_view answer = absl::StripLeadingAsciiWhitespace(unread_);
  if (answer.empty()) return false;
  place_ = answer[0] == '{' ? Place::kCall : Place::kPlain;
  return true;
}

ToolCallReader::Found ToolCallReader::Finish() {
  Found found;
  while (Step(/*is_whole=*/true, &found)) continue;
  if (place_ == Place::kCall) found.calls = Llama3Calls(unread_);  // of another syntax none is left
  const bool is_blank = absl::StripAsciiWhitespace(unread_).empty();
  if (found.calls.empty() && !(has_called_ && is_blank)) absl::StrAppend(&found.text, unread_);
  unread_.clear();
  return found;
}

}  // namespace kvship
