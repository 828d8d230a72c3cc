#include "engine/chat_probe.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace kvship {
namespace {

// Words that no template has.
constexpr char kSystem[] = "kvship-says", kUser[] = "kvship-asks", kAnswer[] = "kvship-answers",
               kQuestion[] = "kvship-asks-again", kTool[] = "kvship_tool",
               kResult[] = "kvship-result", kParameter[] = "kvship_parameter";
constexpr char kValue[] = R"([1, "x"])";

// What it writes; empty for what it refuses.
std::string Written(const ChatProgram& program, const ChatProgram::Input& input) {
  const absl::StatusOr<ChatPrompt> prompt = program.Run(input);
  return prompt.ok() ? prompt->text : "";
}

std::string Thinking(const ChatProgram& program, std::optional<bool> enable_thinking) {
  const ChatMessage message = {"user", kUser};
  return Written(program, {.messages = {&message, 1}, .enable_thinking = enable_thinking});
}

void ProbeThinking(const ChatProgram& program, ChatTraits& traits) {
  const std::string by_itself = Thinking(program, std::nullopt);
  const std::string without = Thinking(program, false);
  traits.heeds_thinking = Thinking(program, true) != without;
  // One that is not asked begins its thoughts in the prompt, or has none that could be told.
  traits.thinks = traits.heeds_thinking
                      ? by_itself != without
                      : absl::EndsWith(absl::StripTrailingAsciiWhitespace(by_itself), "<think>");
}

// A call of the tool as the syntax has it, with `arguments` as JSON.
std::string CallText(ToolSyntax syntax, absl::string_view arguments) {
  const CallSpelling& spelling = SpellingOf(syntax);
  const std::string written =
      syntax == ToolSyntax::kQwenXml
          ? absl::StrCat("<parameter=", kParameter, ">\n", kValue, "\n</parameter>\n")
          : std::string(arguments);
  return absl::StrCat(spelling.before_all, spelling.before_name, kTool, spelling.before_arguments,
                      written, spelling.after, spelling.after_all);
}

// Mistral's templates write calls with their ids, which need not be there.
std::string WithoutIds(absl::string_view prompt) {
  return absl::StrReplaceAll(prompt, {{absl::StrCat("[CALL_ID]", kFirstCallId), ""},
                                      {absl::StrCat(", \"id\": \"", kFirstCallId, "\""), ""}});
}

void ProbeTools(const ChatProgram& program, ChatTraits& traits) {
  const std::vector<std::string> tools = {absl::StrCat(
      R"({"type": "function", "function": {"name": ")", kTool,
      R"(", "description": "d", "parameters": {"type": "object", "properties": {}}}})")};
  const ToolCall call = {kTool, absl::StrCat("{\"", kParameter, "\": ", kValue, "}")};
  std::vector<ChatMessage> messages = {
      {"user", kUser}, {"assistant", "", {call}}, {"tool", kResult}};
  const std::string told = Written(program, {.messages = {messages.data(), 1}, .tools = tools});
  const std::string called = WithoutIds(Written(program, {.messages = messages, .tools = tools}));
  if (!absl::StrContains(told, kTool) || !absl::StrContains(called, kResult)) return;
  for (const ToolSyntax syntax : kToolSyntaxes) {
    if (!absl::StrContains(called, CallText(syntax, call.arguments))) continue;
    traits.tool_syntax = syntax;
    break;
  }
  messages[1].tool_calls.push_back(call);
  messages.push_back(messages[2]);
  traits.has_parallel_calls = program.Run({.messages = messages, .tools = tools}).ok();
}

// What looks like a mark ("<|user|>", "[/INST]").
std::vector<std::string> BracketsIn(absl::string_view text) {
  std::vector<std::string> marks;
  for (size_t begin = text.find_first_of("<["); begin < text.size();
       begin = text.find_first_of("<[", begin + 1)) {
    const size_t end = text.find_first_of("<[>] \t\n", begin + 1);
    if (end >= text.size() || text[end] != (text[begin] == '<' ? '>' : ']')) continue;
    if (end == begin + 1) continue;  // of other marks: MiniMax's "]~!b[]~b]"
    marks.emplace_back(text.substr(begin, end + 1 - begin));
  }
  return marks;
}

// Of a text between messages; all of it where nothing looks like a mark.
std::vector<std::string> MarksIn(absl::string_view text) {
  std::vector<std::string> marks = BracketsIn(text);
  text = absl::StripAsciiWhitespace(text);
  if (marks.empty() && !text.empty()) marks.emplace_back(text);
  return marks;
}

// Of a text before a system message, which may have words of the program's own: so what is in no
// brackets counts only if it says whose message follows ("### System:").
std::vector<std::string> WordsBefore(absl::string_view text) {
  text.remove_prefix(text.find_last_of(">]\n", text.find_last_not_of(" \t\n")) + 1);
  text = absl::StripAsciiWhitespace(text);
  if (text.size() < 2 || !absl::EndsWith(text, ":")) return {};
  return {std::string(text)};
}

// Adds those around a system message.
void AddSystemMarks(const ChatProgram& program, std::vector<std::string>& marks) {
  const std::array<ChatMessage, 2> messages = {ChatMessage{"system", kSystem},
                                               ChatMessage{"user", kUser}};
  const std::string prompt = Written(program, {.messages = messages});
  const absl::string_view text = prompt;
  const size_t begin = text.find(kSystem);
  const size_t end = begin + absl::string_view(kSystem).size();
  const size_t user = text.find(kUser, end);
  if (begin == text.npos || user == text.npos) return;
  const absl::string_view before = text.substr(0, begin), behind = text.substr(end, user - end);
  std::vector<std::string> words = WordsBefore(before);
  // Nobody forges a special token, and without it the words are a message's own.
  for (const std::string& mark : BracketsIn(behind)) {
    if (program.NamesSpecialToken(mark)) words.clear();
  }
  for (const auto& more : {BracketsIn(before), words, MarksIn(behind)}) {
    marks.insert(marks.end(), more.begin(), more.end());
  }
}

std::vector<std::string> ProbeMarks(const ChatProgram& program) {
  const std::vector<ChatMessage> messages = {
      {"user", kUser}, {"assistant", kAnswer}, {"user", kQuestion}};
  const std::string prompt = Written(program, {.messages = messages});
  std::vector<std::string> marks;
  AddSystemMarks(program, marks);
  size_t begin = 0;
  for (const char* said : {kUser, kAnswer, kQuestion, ""}) {
    const size_t at = *said == 0 ? prompt.size() : prompt.find(said, begin);
    if (at == std::string::npos) break;
    if (begin > 0) {
      for (std::string& mark : MarksIn(absl::string_view(prompt).substr(begin, at - begin))) {
        marks.push_back(std::move(mark));
      }
    }
    begin = at + absl::string_view(said).size();
  }
  std::erase_if(marks, [&program](absl::string_view mark) {
    // Thoughts are for messages to write.
    return program.NamesSpecialToken(mark) || absl::StrContains(mark, "think>");
  });
  std::sort(marks.begin(), marks.end());
  marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
  return marks;
}

}  // namespace

absl::StatusOr<ChatTraits> ProbeChatProgram(const ChatProgram& program) {
  const std::array<ChatMessage, 2> messages = {ChatMessage{"system", kSystem},
                                               ChatMessage{"user", kUser}};
  const auto asked = program.Run({.messages = {&messages[1], 1}});
  if (!asked.ok() || !absl::StrContains(asked->text, kUser)) {
    return absl::UnimplementedError(
        absl::StrCat("does not write what a user says: ",
                     asked.ok() ? absl::string_view("it is left out") : asked.status().message()));
  }
  ChatTraits traits;
  const std::string told = Written(program, {.messages = messages});
  traits.has_system = absl::StrContains(told, kSystem) && absl::StrContains(told, kUser);
  traits.marks = ProbeMarks(program);
  ProbeTools(program, traits);
  ProbeThinking(program, traits);
  return traits;
}

}  // namespace kvship
