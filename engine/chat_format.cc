#include "engine/chat_format.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace kvship {
namespace {

using absl::StrContains;

// The program with one spelling for what can be spelled in several ways: no comments, no white
// space outside string literals, literals in single quotes with line ends as \n, and message.role
// for message['role']. Good for looking things up, not for running.
std::string Canonical(absl::string_view program) {
  std::string out;
  char quote = 0;
  for (size_t i = 0; i < program.size(); ++i) {
    const char c = program[i];
    if (quote == 0) {
      if (absl::ascii_isspace(c)) continue;
      if (const absl::string_view rest = program.substr(i); absl::StartsWith(rest, "{#")) {
        i += std::min(rest.find("#}"), rest.size() - 2) + 1;
        continue;
      }
      if (c == '\'' || c == '"') quote = c;
      out.push_back(c == '"' ? '\'' : c);
    } else if (c == '\\' && i + 1 < program.size()) {
      out.append({c, program[++i]});
    } else if (c == '\n') {
      out.append("\\n");
    } else if (c == quote) {
      quote = 0;
      out.push_back('\'');
    } else if (c == '\'') {
      out.append("\\'");
    } else {
      out.push_back(c);
    }
  }
  return absl::StrReplaceAll(out, {{"['role']", ".role"}, {"['content']", ".content"}});
}

// The text between the first `before` that is followed by `after` without the end of a string
// literal in between; empty if there is none.
std::string LiteralBetween(absl::string_view program, absl::string_view before,
                           absl::string_view after) {
  for (size_t at = program.find(before); at != absl::string_view::npos;
       at = program.find(before, at + 1)) {
    const absl::string_view rest = program.substr(at + before.size());
    const size_t end = rest.find(after);
    if (end == absl::string_view::npos) break;
    const std::string literal = absl::StrReplaceAll(rest.substr(0, end), {{"\\'", "\\047"}});
    std::string text;
    if (!StrContains(literal, '\'') && absl::CUnescape(literal, &text)) return text;
  }
  return "";
}

bool HasChatMlMessages(absl::string_view program) {
  return StrContains(program,
                     R"('<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n')") ||
         StrContains(program,
                     R"('<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>\n')") ||
         StrContains(program, R"('<|im_start|>user\n'+message.content+'<|im_end|>\n')") ||
         (StrContains(program, "{%-setcontent=message.content%}") &&
          StrContains(program, R"('<|im_start|>'+message.role+'\n'+content+'<|im_end|>'+'\n')") &&
          StrContains(program, R"({{-'<|im_start|>'+message.role+'\n'+content}})"));
}

// Where the program speaks of tools as Qwen's do.
void AddHermesTools(absl::string_view program, ChatFormat& format) {
  const std::string before = LiteralBetween(program, R"(# Tools\n\n)", "<tools>'}}");
  const std::string after = LiteralBetween(program, R"('\n</tools>)", R"(<|im_end|>\n'}})");
  if (before.empty() || after.empty() || !StrContains(program, "{{-tool|tojson}}") ||
      !StrContains(program, R"(<tool_call>\n{"name": "'}})") ||
      !StrContains(program, R"({{-'\n<tool_response>\n'}})")) {
    return;
  }
  format.tool_syntax = ToolSyntax::kHermes;
  format.tools_before = absl::StrCat("# Tools\n\n", before, "<tools>");
  format.tools_after = absl::StrCat("\n</tools>", after);
  format.tool = format.user;
}

// Whether the program puts a system message together where it is given none and no tools, as that
// of Hermes does.
bool ComposesSystemMessage(absl::string_view program) {
  constexpr absl::string_view kSystem = R"('<|im_start|>system\n'}})", kIfTools = "{%-iftools%}{{-";
  for (size_t at = program.find(kSystem); at != absl::string_view::npos;
       at = program.find(kSystem, at + 1)) {
    if (!absl::EndsWith(program.substr(0, at), kIfTools)) return true;
  }
  return StrContains(program, "system_message");
}

bool IsChatMl(absl::string_view program) {
  // Not one that takes thoughts out of the conversation in another way than Qwen3's.
  return HasChatMlMessages(program) && StrContains(program, R"('<|im_start|>assistant\n')") &&
         !StrContains(program, "<think>") && !ComposesSystemMessage(program);
}

ChatFormat ChatMl(absl::string_view program) {
  ChatFormat format;
  format.family = "chatml";
  format.system = {"<|im_start|>system\n", "<|im_end|>\n"};
  format.user = {"<|im_start|>user\n", "<|im_end|>\n"};
  format.assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"};
  format.answer = "<|im_start|>assistant\n";
  format.default_system = LiteralBetween(program, R"('<|im_start|>system\n)", R"(<|im_end|>\n')");
  format.marks_in_text = {"<|im_start|>", "<|im_end|>"};
  AddHermesTools(program, format);
  return format;
}

// Where the answer begins, of models that may think before it.
std::string AnswerOfQwen3(absl::string_view program) {
  return LiteralBetween(program, "{%-ifadd_generation_prompt%}{{-'", "'}}");
}

bool IsQwen3(absl::string_view program) {
  return HasChatMlMessages(program) && StrContains(program, "loop.index0>ns.last_query_index") &&
         StrContains(program, R"(split('</think>')[-1].lstrip('\n'))") &&
         StrContains(program, R"('\n<think>\n'+reasoning_content.strip('\n')+)"
                              R"('\n</think>\n\n'+content.lstrip('\n'))") &&
         absl::StartsWith(AnswerOfQwen3(program), "<|im_start|>assistant\n");
}

ChatFormat Qwen3(absl::string_view program) {
  ChatFormat format = ChatMl(program);
  format.family = "qwen3";
  format.answer = AnswerOfQwen3(program);
  format.earlier_thoughts = ChatFormat::EarlierThoughts::kGoWhereAnswered;
  format.thinks = !absl::EndsWith(format.answer, "</think>\n\n");
  const std::string no_thoughts = LiteralBetween(
      program, "{%-ifenable_thinkingisdefinedandenable_thinkingisfalse%}{{-'", "'}}");
  if (!no_thoughts.empty()) format.answer_without_thoughts = format.answer + no_thoughts;
  return format;
}

// The program without its signs against white space, of which copies have more and fewer.
std::string WithoutTrimSigns(absl::string_view program) {
  return absl::StrReplaceAll(program, {{"{%-", "{%"}, {"-%}", "%}"}, {"{{-", "{{"}, {"-}}", "}}"}});
}

// Where the answer of DeepSeek-R1's distilled models begins; empty if the program does not end with
// that. (The bars are U+FF5C.)
std::string AnswerOfDeepSeek(absl::string_view program) {
  const auto ends_with = [program](absl::string_view literal) {
    return absl::EndsWith(program, absl::StrCat("{%ifadd_generation_promptandnotns.is_tool%}{{'",
                                                literal, "'}}{%endif%}"));
  };
  if (ends_with("<｜Assistant｜>")) return "<｜Assistant｜>";
  return ends_with(R"(<｜Assistant｜><think>\n)") ? "<｜Assistant｜><think>\n" : "";
}

bool IsDeepSeek(absl::string_view program) {
  return StrContains(program,
                     "{%ifmessage.role=='system'%}{%setns.system_prompt=message.content%}{%endif%}"
                     "{%endfor%}{{bos_token}}{{ns.system_prompt}}{%formessageinmessages%}"
                     "{%ifmessage.role=='user'%}{%setns.is_tool=false%}"
                     "{{'<｜User｜>'+message.content}}{%endif%}") &&
         StrContains(program,
                     "{%setcontent=message.content%}{%if'</think>'incontent%}"
                     "{%setcontent=content.split('</think>')[-1]%}{%endif%}"
                     "{{'<｜Assistant｜>'+content+'<｜end▁of▁sentence｜>'}}") &&
         !AnswerOfDeepSeek(program).empty();
}

ChatFormat DeepSeek(absl::string_view program) {
  ChatFormat format;
  format.family = "deepseek";
  format.user = {"<｜User｜>", ""};
  format.assistant = {"<｜Assistant｜>", "<｜end▁of▁sentence｜>"};
  format.answer = AnswerOfDeepSeek(program);
  format.last_system_leads = true;
  format.thinks = true;
  format.earlier_thoughts = ChatFormat::EarlierThoughts::kGo;
  // Tokens that some of its checkpoints do not call special.
  format.marks_in_text = {"<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<｜tool▁"};
  return format;
}

// What Llama's programs say before the tools, from 3.1 on; empty if this one knows none.
std::string ToolsOfLlama3(absl::string_view program) {
  std::string literal, expressions;
  for (const absl::string_view piece :
       {"Given the following functions, please respond with a JSON for a function call ",
        R"(with its proper arguments that best answers the given prompt.\n\n)",
        R"(Respond in the format {"name": function name, "parameters": dictionary of argument )"
        "name and its value}.",
        R"(Do not use variables.\n\n)"}) {
    absl::StrAppend(&literal, piece);
    absl::StrAppend(&expressions, "{{-'", piece, "'}}");
  }
  std::string text;
  if (StrContains(program, expressions) &&
      StrContains(program, R"({{-'Environment: ipython\n'}})") &&
      StrContains(program, "{{-t|tojson(indent=4)}}") &&
      StrContains(program, R"({{-'<|start_header_id|>ipython<|end_header_id|>\n\n'}})")) {
    absl::CUnescape(literal, &text);
  }
  return text;
}

bool IsLlama3(absl::string_view program) {
  return StrContains(program, R"('<|start_header_id|>'+message.role+'<|end_header_id|>\n\n')"
                              R"(+message.content|trim+'<|eot_id|>')") &&
         StrContains(program, R"('<|start_header_id|>assistant<|end_header_id|>\n\n')");
}

ChatFormat Llama3(absl::string_view program) {
  const auto header = [](absl::string_view role) {
    return absl::StrCat("<|start_header_id|>", role, "<|end_header_id|>\n\n");
  };
  ChatFormat format;
  format.family = "llama3";
  format.system = {header("system"), "<|eot_id|>"};
  format.user = {header("user"), "<|eot_id|>"};
  format.assistant = {header("assistant"), "<|eot_id|>"};
  format.answer = header("assistant");
  format.trims = true;
  // From 3.1 on the system message begins with two dates. Today's is the one that the template has
  // for callers who give none, so that the same messages always make the same prompt.
  const std::string knowledge = LiteralBetween(program, "'Cutting Knowledge Date: ", R"(\n')");
  const std::string today = LiteralBetween(program, "date_string='", "'");
  if (!knowledge.empty() && !today.empty()) {
    format.always_system = true;
    format.system_preamble =
        absl::StrCat("Cutting Knowledge Date: ", knowledge, "\nToday Date: ", today, "\n\n");
    format.tools_before = ToolsOfLlama3(program);
    if (!format.tools_before.empty()) {
      format.tool_syntax = ToolSyntax::kLlama3;
      format.preamble_of_tools = "Environment: ipython\n";
      format.tool = {header("ipython"), "<|eot_id|>"};
    }
  }
  format.marks_in_text = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
  return format;
}

bool IsLlama2(absl::string_view program) {
  // Some have a system message for conversations without one, behind a switch written as a
  // constant.
  return !StrContains(program, "{%eliftrue==true") && StrContains(program, R"('<<SYS>>\n')") &&
         StrContains(program, R"('\n<</SYS>>\n\n')") &&
         StrContains(program, "bos_token+'[INST] '+content.strip()+' [/INST]'") &&
         StrContains(program, "' '+content.strip()+' '+eos_token");
}

ChatFormat Llama2(const std::string& begin_token, const std::string& end_token) {
  ChatFormat format;
  format.family = "llama2";
  format.system = {"<<SYS>>\n", "\n<</SYS>>\n\n"};
  format.user = {absl::StrCat(begin_token, "[INST] "), " [/INST]"};
  format.assistant = {" ", absl::StrCat(" ", end_token)};
  format.system_in_user = true;
  format.alternates = true;
  format.trims = true;
  format.marks_in_text = {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"};
  return format;
}

bool IsMistral(absl::string_view program) {
  return StrContains(program, "'[INST] '+message.content+' [/INST]'") &&
         (StrContains(program, "{{message.content+eos_token}}") ||
          StrContains(program, "{{message.content+eos_token+' '}}"));
}

ChatFormat Mistral(absl::string_view program, const std::string& end_token) {
  ChatFormat format;
  format.family = "mistral";
  format.user = {"[INST] ", " [/INST]"};
  format.assistant = {"", end_token};
  if (StrContains(program, "{{message.content+eos_token+' '}}")) format.assistant.after += " ";
  format.has_system = false;
  format.alternates = true;
  format.marks_in_text = {"[INST]", "[/INST]"};
  return format;
}

// Mistral's from its third tokenizer on: "[INST] " with a space or none, and the system message in
// the last of the user's. Without its tools, whose calls have ids of nine letters.
std::optional<ChatFormat> Mistral3(absl::string_view program, const std::string& end_token) {
  ChatFormat format;
  format.family = "mistral";
  for (const char* begin : {"[INST]", "[INST] "}) {
    if (StrContains(program, absl::StrCat("{%-ifloop.lastandsystem_messageisdefined%}{{-'", begin,
                                          R"('+system_message+'\n\n'+message.content+'[/INST]'}})"
                                          "{%-else%}{{-'",
                                          begin, "'+message.content+'[/INST]'}}{%-endif%}"))) {
      format.user = {begin, "[/INST]"};
    }
  }
  if (StrContains(program, "{{-message.content+eos_token}}")) {
    format.assistant = {"", end_token};
  } else if (StrContains(program, "{{-' '+message.content|trim+eos_token}}")) {
    format.assistant = {" ", end_token};
    format.trims_answers = true;
  } else {
    return std::nullopt;
  }
  if (format.user.before.empty()) return std::nullopt;
  format.system = {"", "\n\n"};
  format.system_in_user = true;
  format.system_in_last = true;
  format.alternates = true;
  format.marks_in_text = {"[INST]", "[/INST]"};
  return format;
}

bool IsZephyr(absl::string_view program) {
  return StrContains(program, R"({{'<|user|>\n'+message.content+eos_token}})") &&
         StrContains(program, R"({{'<|system|>\n'+message.content+eos_token}})") &&
         StrContains(program, R"({{'<|assistant|>\n'+message.content+eos_token}})") &&
         StrContains(program, "{{'<|assistant|>'}}");
}

ChatFormat Zephyr(const std::string& end_token) {
  const std::string after = absl::StrCat(end_token, "\n");
  ChatFormat format;
  format.family = "zephyr";
  format.system = {"<|system|>\n", after};
  format.user = {"<|user|>\n", after};
  format.assistant = {"<|assistant|>\n", after};
  format.answer = "<|assistant|>\n";
  format.marks_in_text = {"<|system|>", "<|user|>", "<|assistant|>"};
  return format;
}

absl::Status Unknown(absl::string_view program, absl::string_view why) {
  constexpr size_t kShownBytes = 120;
  return absl::UnimplementedError(absl::StrCat(
      "chat template ", why, "; wanted one of the families chatml, qwen3, deepseek, llama3, ",
      "llama2, mistral, zephyr; it begins: ",
      absl::Utf8SafeCHexEscape(program.substr(0, kShownBytes))));
}

}  // namespace

absl::StatusOr<ChatFormat> RecogniseChatFormat(absl::string_view program,
                                               const std::string& begin_token,
                                               const std::string& end_token) {
  const std::string canonical = Canonical(program);
  ChatFormat format;
  if (IsQwen3(canonical)) {
    format = Qwen3(canonical);
  } else if (IsChatMl(canonical)) {
    format = ChatMl(canonical);
  } else if (const std::string bare = WithoutTrimSigns(canonical); IsDeepSeek(bare)) {
    format = DeepSeek(bare);
  } else if (IsLlama3(canonical)) {
    format = Llama3(canonical);
  } else if (IsLlama2(canonical)) {
    format = Llama2(begin_token, end_token);
  } else if (IsMistral(canonical)) {
    format = Mistral(canonical, end_token);
  } else if (auto mistral = Mistral3(canonical, end_token)) {
    format = *std::move(mistral);
  } else if (IsZephyr(canonical)) {
    format = Zephyr(end_token);
  } else {
    return Unknown(program, "is not known");
  }
  if (StrContains(canonical, "bos_token")) {
    if (begin_token.empty()) return Unknown(program, "needs bos_token, which the model has not");
    if (format.family != "llama2") format.opening = begin_token;  // there it is in the marks
  }
  if (StrContains(canonical, "eos_token") && end_token.empty()) {
    return Unknown(program, "needs eos_token, which the model has not");
  }
  return format;
}

}  // namespace kvship
