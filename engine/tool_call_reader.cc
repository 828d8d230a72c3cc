#include "engine/tool_call_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json_text.h"

namespace kvship {
namespace {

constexpr absl::string_view kThoughtsEnd = "</think>";
constexpr absl::string_view kCallBegin = "<tool_call>", kCallEnd = "</tool_call>";

// `text` without what at its end may be the beginning of `mark`.
absl::string_view BeforeMark(absl::string_view text, absl::string_view mark) {
  size_t bytes = std::min(text.size(), mark.size() - 1);
  while (!absl::EndsWith(text, mark.substr(0, bytes))) --bytes;
  return text.substr(0, text.size() - bytes);
}

std::optional<ToolCall> CallOf(absl::string_view text, ToolSyntax syntax) {
  const bool is_llama3 = syntax == ToolSyntax::kLlama3;
  const auto name = JsonMember(text, "name");
  auto arguments = JsonMember(text, is_llama3 ? "parameters" : "arguments");
  if (!arguments && !is_llama3) arguments = "{}";  // of a function that takes none
  if (!name || !absl::StartsWith(*name, "\"") || *name == "\"\"") return std::nullopt;
  if (!arguments || !absl::StartsWith(*arguments, "{")) return std::nullopt;
  return ToolCall{nlohmann::json::parse(name->begin(), name->end()).get<std::string>(),
                  std::string(*arguments)};
}

// One, or several with white space or semicolons between; none if `text` has anything else.
std::vector<ToolCall> Llama3Calls(absl::string_view text) {
  std::vector<ToolCall> calls;
  while (!(text = absl::StripLeadingAsciiWhitespace(text)).empty()) {
    if (!calls.empty() && text[0] == ';') {
      text.remove_prefix(1);
      continue;
    }
    const size_t bytes = text[0] == '{' ? JsonBytes(text) : 0;
    auto call = CallOf(text.substr(0, bytes), ToolSyntax::kLlama3);
    if (!call) return {};
    calls.push_back(*std::move(call));
    text.remove_prefix(bytes);
  }
  return calls;
}

}  // namespace

ToolCallReader::ToolCallReader(ToolSyntax syntax, bool thinks)
    : syntax_(syntax),
      place_(syntax == ToolSyntax::kNone ? Place::kPlain
             : thinks                    ? Place::kThoughts
                                         : Place::kText) {}

ToolCallReader::Found ToolCallReader::Add(absl::string_view piece) {
  Found found;
  searched_ = unread_.size();
  absl::StrAppend(&unread_, piece);
  while (Step(&found)) continue;
  return found;
}

void ToolCallReader::Give(absl::string_view text, size_t bytes_read, Found* found) {
  absl::StrAppend(&found->text, text);
  unread_.erase(0, bytes_read);
  searched_ = 0;
}

bool ToolCallReader::Step(Found* found) {
  switch (place_) {
    case Place::kThoughts: return StepInThoughts(found);
    case Place::kText: return syntax_ == ToolSyntax::kLlama3 ? BeginLlama3() : StepInText(found);
    case Place::kCall: return syntax_ == ToolSyntax::kLlama3 ? false : StepInCall(found);
    case Place::kPlain: Give(unread_, unread_.size(), found); return false;
  }
  return false;
}

bool ToolCallReader::StepInThoughts(Found* found) {
  const size_t end = absl::string_view(unread_).find(kThoughtsEnd);
  const bool ends = end != absl::string_view::npos;
  const absl::string_view thoughts =
      ends ? absl::string_view(unread_).substr(0, end + kThoughtsEnd.size())
           : BeforeMark(unread_, kThoughtsEnd);
  if (ends) place_ = Place::kText;
  Give(thoughts, thoughts.size(), found);
  return ends;
}

bool ToolCallReader::StepInText(Found* found) {
  const absl::string_view unread = unread_;
  const size_t call = unread.find(kCallBegin);
  const bool calls = call != absl::string_view::npos;
  const absl::string_view text = absl::StripTrailingAsciiWhitespace(
      calls ? unread.substr(0, call) : BeforeMark(unread, kCallBegin));
  if (calls) {
    place_ = Place::kCall;
    call_begin_ = call - text.size() + kCallBegin.size();
  }
  Give(text, text.size(), found);
  return calls;
}

bool ToolCallReader::StepInCall(Found* found) {
  const size_t from = std::max(call_begin_, searched_ - std::min(searched_, kCallEnd.size()));
  const size_t end = absl::string_view(unread_).find(kCallEnd, from);
  if (end == absl::string_view::npos) return false;
  EndHermesCall(end, end + kCallEnd.size(), found);
  place_ = Place::kText;
  return true;
}

void ToolCallReader::EndHermesCall(size_t call_end, size_t bytes_read, Found* found) {
  const absl::string_view unread = unread_;
  absl::string_view text;
  if (auto call = CallOf(unread.substr(call_begin_, call_end - call_begin_), syntax_)) {
    found->calls.push_back(*std::move(call));
    has_called_ = true;
  } else {
    text = unread.substr(0, bytes_read);
  }
  Give(text, bytes_read, found);
}

bool ToolCallReader::BeginLlama3() {
  const absl::string_view answer = absl::StripLeadingAsciiWhitespace(unread_);
  if (answer.empty()) return false;
  place_ = answer[0] == '{' ? Place::kCall : Place::kPlain;
  return true;
}

ToolCallReader::Found ToolCallReader::Finish() {
  Found found;
  if (place_ == Place::kCall && syntax_ == ToolSyntax::kHermes) {
    EndHermesCall(unread_.size(), unread_.size(), &found);
  } else if (place_ == Place::kCall) {
    found.calls = Llama3Calls(unread_);
    if (found.calls.empty()) found.text = unread_;
  } else if (!has_called_ || !absl::StripAsciiWhitespace(unread_).empty()) {
    found.text = unread_;
  }
  unread_.clear();
  return found;
}

}  // namespace kvship
