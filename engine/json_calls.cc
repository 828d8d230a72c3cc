#include "engine/json_calls.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "engine/json_text.h"

namespace kvship {
namespace {

constexpr absl::string_view kHermesBegin = "<tool_call>", kHermesEnd = "</tool_call>";
constexpr absl::string_view kMistralBegin = "[TOOL_CALLS]", kMistralId = "[CALL_ID]",
                            kMistralArguments = "[ARGS]";

// {"name": ..., `arguments_name`: {...}}; without `needs_arguments` a function that takes none may
// have none.
std::optional<ToolCall> CallOf(absl::string_view text, absl::string_view arguments_name,
                               bool needs_arguments = false) {
  const auto name = JsonMember(text, "name");
  auto arguments = JsonMember(text, arguments_name);
  if (!arguments && !needs_arguments) arguments = "{}";
  if (!name || !absl::StartsWith(*name, "\"") || *name == "\"\"") return std::nullopt;
  if (!arguments || !absl::StartsWith(*arguments, "{")) return std::nullopt;
  return ToolCall{nlohmann::json::parse(name->begin(), name->end()).get<std::string>(),
                  std::string(*arguments)};
}

// One or several, with white space and separators between; none if `text` has anything else.
template <typename ReadCall>
std::vector<ToolCall> AllCalls(absl::string_view text, char separator, const ReadCall& read) {
  std::vector<ToolCall> calls;
  while (!(text = absl::StripLeadingAsciiWhitespace(text)).empty()) {
    if (!calls.empty() && text[0] == separator) {
      text.remove_prefix(1);
      continue;
    }
    const size_t bytes = text[0] == '{' ? JsonBytes(text) : 0;
    std::optional<ToolCall> call = read(text.substr(0, bytes));
    if (!call) return {};
    calls.push_back(*std::move(call));
    text.remove_prefix(bytes);
  }
  return calls;
}

// Whether what precedes an end mark, a call's JSON, ends in one of its strings: the mark is then a
// part of it. `json` keeps what is known of a shorter one.
bool EndsInString(absl::string_view text, JsonEnd& json) {
  text = absl::StripLeadingAsciiWhitespace(text);
  return absl::StartsWith(text, "{") && json.Find(text) == 0 && json.may_be_in_string();
}

bool IsOfName(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.'; }

// Takes NAME[ARGS] off the text, or NAME and an id and [ARGS], whichever marks are there.
CallState TakeMistralName(absl::string_view& text, std::string& name) {
  const auto bytes = std::find_if_not(text.begin(), text.end(), IsOfName) - text.begin();
  name = std::string(text.substr(0, bytes));
  text.remove_prefix(bytes);
  if (text.empty() || MayBecome(text, kMistralId)) return CallState::kUnfinished;
  if (absl::ConsumePrefix(&text, kMistralId)) {
    text.remove_prefix(std::find_if_not(text.begin(), text.end(), absl::ascii_isalnum) -
                       text.begin());
  }
  if (text.empty() || MayBecome(text, kMistralArguments)) return CallState::kUnfinished;
  absl::ConsumePrefix(&text, kMistralArguments);
  text = absl::StripLeadingAsciiWhitespace(text);
  if (text.empty()) return CallState::kUnfinished;
  return !name.empty() && text[0] == '{' ? CallState::kCalls : CallState::kNone;
}

// What `json`, which `reading` has come to the end of, calls: a list, one of its items, or the
// arguments of the call that is named before it.
std::vector<ToolCall> MistralCalls(absl::string_view json, const CallReading& reading) {
  if (!reading.name.empty()) {
    if (!IsJsonObject(json)) return {};
    return {{reading.name, std::string(json)}};
  }
  if (absl::ConsumePrefix(&json, "[")) json.remove_suffix(1);
  return AllCalls(json, ',', [](absl::string_view text) { return CallOf(text, "arguments"); });
}

// Up to the JSON that its calls are in.
CallState ReadMistralHead(absl::string_view text, CallReading& reading) {
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, kMistralBegin)) return CallState::kNone;
  rest = absl::StripLeadingAsciiWhitespace(rest);
  if (rest.empty()) return CallState::kUnfinished;
  if (rest[0] != '[' && rest[0] != '{') {
    const CallState state = TakeMistralName(rest, reading.name);
    if (state != CallState::kCalls) return state;
  }
  reading.at = text.size() - rest.size();
  return CallState::kCalls;
}

}  // namespace

CallState ReadHermesCall(absl::string_view text, bool is_whole, CallReading& reading) {
  const absl::string_view body = text.substr(kHermesBegin.size());
  size_t end = reading.searched;
  while ((end = body.find(kHermesEnd, end)) != absl::string_view::npos) {
    if (reading.at == 0) reading.at = kHermesBegin.size() + end + kHermesEnd.size();
    if (!EndsInString(body.substr(0, end), reading.json)) break;
    end += kHermesEnd.size();
    reading.searched = end;
  }
  const bool has_end = end != absl::string_view::npos;
  if (!has_end && !is_whole) {
    const size_t may_begin_mark = std::min(body.size(), kHermesEnd.size() - 1);
    reading.searched = std::max(reading.searched, body.size() - may_begin_mark);
    return CallState::kUnfinished;
  }
  auto call = CallOf(body.substr(0, end), "arguments");
  if (call) {
    reading.num_bytes = has_end ? kHermesBegin.size() + end + kHermesEnd.size() : text.size();
    reading.calls.push_back(*std::move(call));
    return CallState::kCalls;
  }
  reading.num_bytes = reading.at > 0 ? reading.at : text.size();
  return CallState::kNone;
}

CallState ReadMistralCalls(absl::string_view text, bool is_whole, CallReading& reading) {
  CallState state = reading.at > 0 ? CallState::kCalls : ReadMistralHead(text, reading);
  size_t bytes = 0;
  if (state == CallState::kCalls) {
    bytes = reading.json.Find(text.substr(reading.at));
    if (bytes == 0) state = CallState::kUnfinished;
  }
  if (state == CallState::kUnfinished && !is_whole) return state;
  if (state == CallState::kCalls) {
    reading.calls = MistralCalls(text.substr(reading.at, bytes), reading);
    reading.num_bytes = reading.at + bytes;
    if (!reading.calls.empty()) return state;
  }
  // What was cut off is none, to its end; of what is another thing, the mark alone.
  reading.num_bytes = state == CallState::kUnfinished ? text.size() : text.find(']') + 1;
  return CallState::kNone;
}

std::vector<ToolCall> Llama3Calls(absl::string_view text) {
  return AllCalls(text, ';', [](absl::string_view call) {
    return CallOf(call, "parameters", /*needs_arguments=*/true);
  });
}

}  // namespace kvship
