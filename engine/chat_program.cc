#include "engine/chat_program.h"

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/added_tokens.h"
#include "engine/json_text.h"
#include "engine/tool_call.h"

namespace jinja {

std::string_view python_strip(std::string_view text) {
  const absl::string_view inner = kvship::StripWhitespace({text.data(), text.size()});
  return {inner.data(), inner.size()};
}

}  // namespace jinja

namespace kvship {
namespace {

using jinja::value;

// Stands behind the first character of a special token's name in what messages say, so that the
// prompt tells such names from the program's own, however the program came by them. No character;
// where a message has it all the same, it stands there twice.
constexpr absl::string_view kMark = "\uFDD0";

// A number of JSON that is no integer of 64 bits, with the digits that it was written with.
class Number final : public jinja::value_float_t {
 public:
  Number(double number, std::string text) : value_float_t(number), text_(std::move(text)) {}
  jinja::string as_string() const override { return jinja::string(text_); }

 private:
  const std::string text_;
};

// Text of clients as the program sees it.
class Marker {
 public:
  // Of `names`, special tokens' and kMark.
  explicit Marker(const AddedTokens& names) : names_(names) {}

  value operator()(absl::string_view text) const {
    std::string marked;
    while (true) {
      const AddedTokens::Match match = names_.Find(text, 0);
      const size_t plain = std::min(match.begin, text.size());
      absl::StrAppend(&marked, text.substr(0, plain));
      text.remove_prefix(plain);
      if (text.empty()) return jinja::mk_val<jinja::value_string>(marked);
      const size_t bytes = FirstCharacter(text).num_bytes;
      absl::StrAppend(&marked, text.substr(0, bytes), kMark);
      text.remove_prefix(bytes);
    }
  }

 private:
  const AddedTokens& names_;
};

// Makes values of JSON (nlohmann's interface for what reads it), members in their order.
class ValueReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ValueReader(const Marker& marker) : marker_(marker) {}

  bool null() override { return Add(jinja::mk_val<jinja::value_none>()); }
  bool boolean(bool is) override { return Add(jinja::mk_val<jinja::value_bool>(is)); }
  bool number_integer(int64_t number) override {
    return Add(jinja::mk_val<jinja::value_int>(number));
  }
  bool number_unsigned(uint64_t number) override {
    if (number <= INT64_MAX) return number_integer(static_cast<int64_t>(number));
    return number_float(static_cast<double>(number), absl::StrCat(number));
  }
  bool number_float(double number, const std::string& text) override {
    return Add(std::make_shared<Number>(number, text));
  }
  bool string(std::string& text) override { return Add(marker_(text)); }
  bool binary(nlohmann::json::binary_t& /*bytes*/) override { return false; }
  bool start_object(size_t /*size*/) override { return Open(jinja::mk_val<jinja::value_object>()); }
  bool start_array(size_t /*size*/) override { return Open(jinja::mk_val<jinja::value_array>()); }
  bool key(std::string& name) override {
    keys_.back() = marker_(name);
    return true;
  }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool parse_error(size_t /*at*/, const std::string& /*token*/,
                   const nlohmann::json::exception& /*error*/) override {
    return false;
  }

  const value& whole() const { return whole_; }

 private:
  bool Add(value item) {
    if (open_.empty()) {
      whole_ = std::move(item);
    } else if (keys_.back() != nullptr) {
      open_.back()->insert(std::exchange(keys_.back(), nullptr), item);
    } else {
      static_cast<jinja::value_array_t&>(*open_.back()).push_back(std::move(item));
    }
    return true;
  }
  bool Open(value item) {
    open_.push_back(std::move(item));
    keys_.push_back(nullptr);
    return true;
  }
  bool Close() {
    value item = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    return Add(std::move(item));
  }

  const Marker& marker_;
  value whole_;
  std::vector<value> open_;  // objects and lists that have begun
  std::vector<value> keys_;  // in each, the name of the member to come; null in a list
};

absl::StatusOr<value> ObjectOf(absl::string_view json, const Marker& marker,
                               absl::string_view path) {
  const absl::StatusOr<std::string> text = PythonJson(json);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " ", text.status().message()));
  }
  ValueReader reader(marker);
  if (!nlohmann::json::sax_parse(*text, &reader)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read; wanted a JSON object"));
  }
  return reader.whole();
}

value Text(const std::string& text) { return jinja::mk_val<jinja::value_string>(text); }

// Calls are numbered, and what came of them is in their order. Mistral's programs want nine letters
// and digits, which those that clients know are not.
std::string CallId(size_t number) { return absl::StrFormat("call%05d", number % 100000); }

struct Member {
  const char* name;
  value member;
};
value Object(std::initializer_list<Member> members) {
  auto object = jinja::mk_val<jinja::value_object>();
  for (const Member& member : members) object->insert(Text(member.name), member.member);
  return object;
}

absl::StatusOr<value> CallsOf(const ChatMessage& message, const std::string& path, size_t first,
                              const Marker& marker) {
  auto calls = jinja::mk_val<jinja::value_array>();
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const ToolCall& call = message.tool_calls[i];
    ASSIGN_OR_RETURN(value arguments,
                     ObjectOf(call.arguments, marker,
                              absl::StrCat(path, ".tool_calls[", i, "].function.arguments")));
    calls->push_back(
        Object({{"id", Text(CallId(first + i))},
                {"type", Text("function")},
                {"function", Object({{"name", marker(call.name)}, {"arguments", arguments}})}}));
  }
  return value(calls);
}

// `answer_marker` is for what the assistant said.
absl::StatusOr<value> MessagesOf(std::span<const ChatMessage> messages, const Marker& marker,
                                 const Marker& answer_marker) {
  auto out = jinja::mk_val<jinja::value_array>();
  std::vector<std::string> called;  // names
  size_t num_answered = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const Marker& content_marker = message.role == "assistant" ? answer_marker : marker;
    value item =
        Object({{"role", Text(message.role)}, {"content", content_marker(message.content)}});
    if (!message.tool_calls.empty()) {
      ASSIGN_OR_RETURN(value calls,
                       CallsOf(message, absl::StrCat("messages[", i, "]"), called.size(), marker));
      item->insert(Text("tool_calls"), calls);
      for (const ToolCall& call : message.tool_calls) called.push_back(call.name);
    }
    if (message.role == "tool" && num_answered < called.size()) {
      item->insert(Text("name"), marker(called[num_answered]));
      item->insert(Text("tool_call_id"), Text(CallId(num_answered++)));
    }
    out->push_back(item);
  }
  return value(out);
}

absl::StatusOr<value> ToolsOf(std::span<const std::string> tools, const Marker& marker) {
  if (tools.empty()) return value(jinja::mk_val<jinja::value_none>());
  auto out = jinja::mk_val<jinja::value_array>();
  for (size_t i = 0; i < tools.size(); ++i) {
    ASSIGN_OR_RETURN(value tool, ObjectOf(tools[i], marker, absl::StrCat("tools[", i, "]")));
    out->push_back(std::move(tool));
  }
  return value(out);
}

// What a program raises without the place in it, or all that the engine says of what went wrong.
std::string WordsOf(absl::string_view error) {
  constexpr absl::string_view kRaised = "Jinja Exception: ", kError = "Error: ";
  for (const absl::string_view before : {kRaised, kError}) {
    if (const size_t at = error.rfind(before); at != absl::string_view::npos) {
      return std::string(error.substr(at + before.size()));
    }
  }
  return std::string(error);
}

// Takes the marks out, and says where they were: of several in a row the odd one is the first.
ChatPrompt WithoutMarks(absl::string_view marked) {
  ChatPrompt prompt;
  while (true) {
    const size_t at = std::min(marked.find(kMark), marked.size());
    absl::StrAppend(&prompt.text, marked.substr(0, at));
    marked.remove_prefix(at);
    if (marked.empty()) return prompt;
    size_t count = 0;
    for (; absl::ConsumePrefix(&marked, kMark); ++count) continue;
    if (count % 2 == 1 && !prompt.text.empty()) {
      size_t begin = prompt.text.size() - 1;
      while (begin > 0 && (prompt.text[begin] & 0xC0) == 0x80) --begin;
      prompt.contents.push_back({begin, prompt.text.size()});
    }
    for (size_t i = 0; i < count / 2; ++i) absl::StrAppend(&prompt.text, kMark);
  }
}

}  // namespace

struct ChatProgram::Parsed {
  jinja::program program;
  AddedTokens names;  // of special tokens, and kMark
  // The same without thoughts' marks: programs look for these in answers, to leave thoughts out,
  // and they part no message from another.
  AddedTokens names_in_answers;
};

ChatProgram::ChatProgram(std::shared_ptr<const ChatTemplateSource> source,
                         std::shared_ptr<const Parsed> parsed)
    : source_(std::move(source)), parsed_(std::move(parsed)) {}

absl::StatusOr<ChatProgram> ChatProgram::Parse(const ChatTemplateSource& source) {
  try {
    jinja::lexer lexer;
    auto parsed = std::make_shared<Parsed>(
        Parsed{jinja::parse_from_tokens(lexer.tokenize(source.program)), {}, {}});
    parsed->names.Add(kMark, 0);
    parsed->names_in_answers.Add(kMark, 0);
    for (const std::string& name : source.special_tokens) {
      parsed->names.Add(name, 0);
      if (name != kThoughtsBegin && name != kThoughtsEnd) parsed->names_in_answers.Add(name, 0);
    }
    return ChatProgram(std::make_shared<ChatTemplateSource>(source), std::move(parsed));
  } catch (const std::exception& error) {
    return absl::UnimplementedError(
        absl::StrCat("is no chat template that can be run: ", WordsOf(error.what())));
  }
}

bool ChatProgram::NamesSpecialToken(absl::string_view text) const {
  return parsed_->names.Find(text, 0).begin != absl::string_view::npos;
}

absl::StatusOr<ChatPrompt> ChatProgram::Run(const Input& input) const {
  const Marker marker(parsed_->names);
  const Marker answer_marker(parsed_->names_in_answers);
  ASSIGN_OR_RETURN(const value messages, MessagesOf(input.messages, marker, answer_marker));
  ASSIGN_OR_RETURN(const value tools, ToolsOf(input.tools, marker));
  try {
    jinja::context context(source_->program);
    context.set_val("messages", messages);
    context.set_val("tools", tools);
    context.set_val("documents", jinja::mk_val<jinja::value_none>());
    context.set_val("bos_token", Text(source_->begin_token));
    context.set_val("eos_token", Text(source_->end_token));
    context.set_val("add_generation_prompt", jinja::mk_val<jinja::value_bool>(true));
    if (input.enable_thinking) {
      context.set_val("enable_thinking", jinja::mk_val<jinja::value_bool>(*input.enable_thinking));
    }
    const value written = jinja::runtime(context).execute(parsed_->program);
    return WithoutMarks(jinja::runtime::gather_string_parts(written)->as_string().str());
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "messages cannot be: the model's chat template says, ", WordsOf(error.what())));
  }
}

}  // namespace kvship
