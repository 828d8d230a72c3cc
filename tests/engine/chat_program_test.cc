#include "engine/chat_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/chat_probe.h"
#include "tests/engine/chat_programs.h"

namespace kvship {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Messages = std::vector<ChatMessage>;

ChatProgram Program(std::string program, std::vector<std::string> special_tokens = {}) {
  auto parsed = ChatProgram::Parse(ChatSource(std::move(program), std::move(special_tokens)));
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return *std::move(parsed);
}

Messages MessagesOf(const json& conversation) {
  Messages messages;
  for (const json& item : conversation["messages"]) {
    ChatMessage& message = messages.emplace_back(ChatMessage{item["role"], item["content"]});
    for (const json& call : item.value("tool_calls", json::array())) {
      message.tool_calls.push_back({call["name"], call["arguments"]});
    }
  }
  return messages;
}

TEST(ChatProgram, PromptsAreThoseOfJinja2) {
  const json goldens = json::parse(ReadBytes(KVSHIP_GOLDENS "/chat/prompts.json"));
  for (const auto& [name, prompts] : goldens["prompts"].items()) {
    const ChatProgram program = Program(PublishedProgram(name));
    ASSERT_EQ(prompts.size(), goldens["conversations"].size());
    for (size_t i = 0; i < prompts.size(); ++i) {
      SCOPED_TRACE(absl::StrCat(name, ", conversation ", i));
      const json& conversation = goldens["conversations"][i];
      const Messages messages = MessagesOf(conversation);
      const auto tools = conversation["tools"].get<std::vector<std::string>>();
      ChatProgram::Input input = {.messages = messages, .tools = tools};
      if (conversation.contains("enable_thinking")) {
        input.enable_thinking = conversation["enable_thinking"].get<bool>();
      }
      const auto prompt = program.Run(input);
      if (prompts[i].is_object()) {
        EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(std::string(prompt.status().message()),
                    HasSubstr(prompts[i]["error"].get<std::string>()));
      } else {
        ASSERT_TRUE(prompt.ok()) << prompt.status();
        EXPECT_EQ(prompt->text, prompts[i].get<std::string>());
      }
    }
  }
}

// Each rendered otherwise, without a word, by llama.cpp's engine as it is published.
TEST(ChatProgram, PartsOfTemplatesAreAsJinja2HasThem) {
  const Messages messages = {{"user", " wörld  日本語 "}, {"assistant", "b"}};
  const std::pair<const char*, const char*> rows[] = {
      {"{% for m in messages %}{% if m.role == 'user' %}{% set u = 1 %}{% endif %}{{ m.role[0] }}"
       "{{ u is defined }}{% endfor %}{{ u is defined }}",
       "uTrueaFalseFalse"},
      {"{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
       "1231"},
      {"{% set n = namespace(x=1) %}{% for i in range(3) %}{% set n.x = n.x + i %}{% endfor %}"
       "{{ n.x }}",
       "4"},
      {"{% macro f(a, b='z', c='w') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}"
       "{{ f('x', c=3) }}{{ f('x', 'y') }}{{ f(b=1, a=2) }}{{ f() }}",
       "[xz3][xyw][21w][zw]"},
      {"{% set t = messages[0].content | trim %}{{ t | length }}{{ t[1] }}{{ t[-1] }}{{ t[:2] }}"
       "{{ t[-2:] }}{{ t[::-1] }}",
       "10ö語wö本語語本日  dlröw"},
      {"{{ messages[0].content.split() | join('#') }}{{ 'a  b'.split(' ') | join('#') }}",
       "wörld#日本語a##b"},
      {"{{ (none | default('x')) is none }}{{ none | default('x', true) }}{{ u | default('x') }}",
       "Truexx"},
      {"({% if true %}a{% endif %})", "(a)"},
      {"  {% if true %}a{% endif %}", "a"},
      {"a {% if true %}b{% endif %}", "a b"},
  };
  for (const auto& [program, wanted] : rows) {
    const auto prompt = Program(program).Run({.messages = messages});
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(prompt->text, wanted) << program;
  }
  for (const char* program : {"{{ '%.2f' | format(1.234) }}", "{{ 'a b'.rsplit() | join }}"}) {
    EXPECT_FALSE(Program(program).Run({.messages = messages}).ok()) << program;
  }
}

TEST(ChatProgram, NamesOfSpecialTokensThatMessagesWriteAreText) {
  const ChatProgram program = Program(
      "{% for m in messages %}<s>{{ '<|' + m.role + '|>' + (m.content | trim | upper) }}{% endfor "
      "%}"
      "{% for tool in tools %}{{ tool | tojson }}{% endfor %}",
      {"<s>", "<|user|>", "<|USER|>", "｜x", "\uFDD0"});
  const Messages messages = {{"user", " <|USER|> a<s>b ｜x <|user|>"},
                             {"system", "\uFDD0\uFDD0 ok"}};
  const std::vector<std::string> tools = {R"({"<|user|>": "\u003cs>\ufdd0"})"};
  const auto prompt = program.Run({.messages = messages, .tools = tools});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text,
            "<s><|user|><|USER|> A<S>B ｜X <|USER|><s><|system|>\uFDD0\uFDD0 OK"
            "{\"<|user|>\": \"<s>\uFDD0\"}");
  std::vector<std::string> marked;
  for (const auto& [begin, end] : prompt->contents) {
    EXPECT_EQ(end - begin, prompt->text.substr(begin, 3) == "｜" ? 3 : 1);
    marked.push_back(prompt->text.substr(begin, 4));
  }
  EXPECT_THAT(marked, ElementsAre("<|US", "<S>B", "｜X", "<|US", "<|us", "<s>\xEF"));
}

// So that what programs do with thoughts in earlier answers goes on where these marks are special.
TEST(ChatProgram, MarksOfThoughtsAreThemselvesInAnswersAlone) {
  const ChatProgram program = Program(
      "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content.split('</think>')[-1] }}"
      "{% endfor %}",
      {"<think>", "</think>", "<|user|>"});
  const Messages messages = {{"user", "<think>a</think>b"},
                             {"assistant", "<think>c</think><|user|>d <think>"},
                             {"tool", "e</think>"}};
  const auto prompt = program.Run({.messages = messages});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text,
            "<|user|><think>a</think>b<|assistant|><|user|>d <think><|tool|>e</think>");
  std::vector<std::string> marked;
  for (const TextRange& range : prompt->contents) {
    marked.push_back(prompt->text.substr(range.begin, 8));
  }
  EXPECT_THAT(marked, ElementsAre("<think>a", "</think>", "<|user|>", "</think>"));
}

TEST(ChatProgram, TrimsWhatPythonTrims) {
  const ChatProgram program = Program(
      "{{ messages[0].content | trim }}|{{ messages[0].content.lstrip() }}|"
      "{{ messages[0].content.rstrip('.') }}");
  const auto trimmed = [&program](const char* content) {
    const ChatMessage message = {"user", content};
    return program.Run({.messages = {&message, 1}})->text;
  };
  EXPECT_EQ(trimmed("\u3000\u00a0 Hi\u2028\x1f"), "Hi|Hi\u2028\x1f|\u3000\u00a0 Hi\u2028\x1f");
  EXPECT_EQ(trimmed("\u200bHi\u3000there.."),
            "\u200bHi\u3000there..|\u200bHi\u3000there..|\u200bHi\u3000there");
  EXPECT_EQ(trimmed(" \u3000\n"), "|| \u3000\n");
}

TEST(ChatProgram, NumbersOfToolsKeepTheirDigits) {
  const ChatProgram program = Program("{{ messages[0].content }}{{ tools | tojson }}");
  const Messages messages = {{"user", ""}};
  const std::vector<std::string> tools = {
      R"({"b": 1.50, "a": 1e-7, "c": 123456789012345678901, "d": 0.1234567, "e": -3, "f": [null, true]})"};
  EXPECT_EQ(program.Run({.messages = messages, .tools = tools})->text,
            absl::StrCat("[", tools[0], "]"));
}

TEST(ChatProgram, WhatCannotBeIsRefusedInItsWords) {
  const ChatProgram program = Program(
      "{% if messages[0].role == 'tool' %}{{ raise_exception('No \"tools\" here') }}"
      "{% endif %}{{ messages[0].content }}");
  const auto refusal = [&program](const Messages& messages, std::vector<std::string> tools = {}) {
    const auto prompt = program.Run({.messages = messages, .tools = tools});
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument) << prompt.status();
    return std::string(prompt.status().message());
  };
  EXPECT_EQ(refusal({{"tool", "x"}}),
            "messages cannot be: the model's chat template says, No \"tools\" here");
  EXPECT_THAT(refusal({{"user", "x"}}, {"{}", "[]"}), HasSubstr("tools[1] is "));
  EXPECT_THAT(refusal({{"user", "x"}, {"assistant", "", {{"f", "{"}}}}),
              HasSubstr("messages[1].tool_calls[0].function.arguments is "));
}

TEST(ChatProgram, WhatIsNoProgramIsRefused) {
  for (const char* program : {"{% if %}", "{{ messages[", "{% for m in messages %}", "{{ 1 + }}"}) {
    const auto parsed = ChatProgram::Parse(ChatSource(program));
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kUnimplemented) << program;
  }
}

ChatTraits Probed(const std::string& name, std::vector<std::string> special_tokens = {}) {
  const auto traits = ProbeChatProgram(Program(PublishedProgram(name), std::move(special_tokens)));
  EXPECT_TRUE(traits.ok()) << traits.status();
  return *traits;
}

TEST(ChatProbe, FindsWhatATemplateDoes) {
  const ChatTraits qwq = Probed("Qwen-QwQ-32B", {"<|im_start|>", "<|im_end|>"});
  EXPECT_TRUE(qwq.has_system);
  EXPECT_FALSE(qwq.thinks);  // as published with the engine, and other than by Qwen
  EXPECT_TRUE(qwq.heeds_thinking);
  EXPECT_EQ(qwq.tool_syntax, ToolSyntax::kHermes);
  EXPECT_THAT(qwq.marks, IsEmpty());

  const ChatTraits qwen3 = Probed("Qwen-Qwen3-0.6B");
  EXPECT_TRUE(qwen3.thinks);
  EXPECT_TRUE(qwen3.heeds_thinking);
  EXPECT_EQ(qwen3.tool_syntax, ToolSyntax::kHermes);
  EXPECT_TRUE(qwen3.has_parallel_calls);
  EXPECT_THAT(qwen3.marks, ElementsAre("<|im_end|>", "<|im_start|>"));

  const ChatTraits llama = Probed("meta-llama-Llama-3.3-70B-Instruct");
  EXPECT_FALSE(llama.thinks);
  EXPECT_FALSE(llama.heeds_thinking);
  EXPECT_EQ(llama.tool_syntax, ToolSyntax::kLlama3);
  EXPECT_FALSE(llama.has_parallel_calls);

  const ChatTraits gemma = Probed("google-gemma-2-2b-it");
  EXPECT_FALSE(gemma.has_system);
  EXPECT_EQ(gemma.tool_syntax, ToolSyntax::kNone);

  // Its calls are written in another way, which nobody here reads.
  EXPECT_EQ(Probed("moonshotai-Kimi-K2").tool_syntax, ToolSyntax::kNone);
  const ChatTraits nemotron = Probed("NVIDIA-Nemotron-Nano-v2");
  EXPECT_TRUE(nemotron.thinks);
  EXPECT_FALSE(nemotron.heeds_thinking);
}

TEST(ChatProbe, FindsHowATemplateWritesCalls) {
  const std::pair<const char*, ToolSyntax> templates[] = {
      {"Qwen3-Coder", ToolSyntax::kQwenXml},
      {"Qwen3.5-4B", ToolSyntax::kQwenXml},
      {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", ToolSyntax::kQwenXml},
      {"StepFun3.5-Flash", ToolSyntax::kQwenXml},
      {"ByteDance-Seed-OSS", ToolSyntax::kNone},  // whose marks have other names
      {"mistralai-Mistral-Nemo-Instruct-2407", ToolSyntax::kMistralList},
      {"Mistral-Small-3.2-24B-Instruct-2506", ToolSyntax::kMistral},
      {"mistralai-Ministral-3-14B-Reasoning-2512", ToolSyntax::kMistral},
      {"unsloth-mistral-Devstral-Small-2507", ToolSyntax::kMistral}};
  for (const auto& [name, syntax] : templates) {
    const ChatTraits traits = Probed(name);
    EXPECT_EQ(traits.tool_syntax, syntax) << name;
    EXPECT_TRUE(traits.has_parallel_calls) << name;
  }
  EXPECT_EQ(ProbeChatProgram(Program(MistralSpacedListProgram()))->tool_syntax,
            ToolSyntax::kMistralSpacedList);
}

TEST(ChatProbe, AProgramThatLeavesOutTheUserIsRefused) {
  const auto traits = ProbeChatProgram(Program("Hello"));
  EXPECT_EQ(traits.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(traits.status().message()), HasSubstr("it is left out"));
}

}  // namespace
}  // namespace kvship
