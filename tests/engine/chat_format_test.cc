// Families of chat templates by their programs. The prompts expected are those that Jinja makes of
// the published programs.
#include "engine/chat_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "engine/chat_template.h"

namespace kvship {
namespace {

using testing::HasSubstr;

using Messages = std::vector<ChatMessage>;

std::string Render(const std::string& program, const Messages& messages) {
  const auto format = RecogniseChatFormat(program, "<s>", "</s>");
  EXPECT_TRUE(format.ok()) << format.status();
  if (!format.ok()) return "";
  const auto prompt = ChatTemplate(*format, {}).Render(messages);
  return prompt.ok() ? prompt->text : std::string(prompt.status().message());
}

// Mistral-Nemo's, without what it says of tools, and Mistral-7B's of v0.3.
const std::string kNemo =
    R"({{- bos_token }}{%- for message in loop_messages %}{%- if message["role"] == "user" %})"
    R"({%- if loop.last and system_message is defined %})"
    R"({{- "[INST]" + system_message + "\n\n" + message["content"] + "[/INST]" }}{%- else %})"
    R"({{- "[INST]" + message["content"] + "[/INST]" }}{%- endif %})"
    R"({%- elif message["role"] == "assistant" %}{{- message["content"] + eos_token}})"
    R"({%- endif %}{%- endfor %})";
const std::string kMistral03 =
    absl::StrReplaceAll(kNemo, {{R"("[INST]" +)", R"("[INST] " +)"},
                                {R"({{- message["content"] + eos_token}})",
                                 R"({{- " " + message["content"]|trim + eos_token}})"}});

TEST(ChatFormat, TheLastMessageOfNewerMistralsHasTheSystems) {
  const Messages one = {{"system", "Be kind."}, {"user", " Hi "}};
  EXPECT_EQ(Render(kNemo, one), "<s>[INST]Be kind.\n\n Hi [/INST]");
  EXPECT_EQ(Render(kMistral03, one), "<s>[INST] Be kind.\n\n Hi [/INST]");
  const Messages two = {{"system", "S"}, {"user", "Hi"}, {"assistant", "Yes "}, {"user", "And?"}};
  EXPECT_EQ(Render(kNemo, two), "<s>[INST]Hi[/INST]Yes </s>[INST]S\n\nAnd?[/INST]");
  EXPECT_EQ(Render(kMistral03, two), "<s>[INST] Hi[/INST] Yes</s>[INST] S\n\nAnd?[/INST]");
  EXPECT_EQ(Render(kNemo, {{"user", "Hi"}}), "<s>[INST]Hi[/INST]");
  EXPECT_THAT(Render(kNemo, {{"user", "Hi"}, {"user", "Hi"}}),
              HasSubstr("in turn, the user first"));
}

// As Hermes' for tools does, whether there are any.
TEST(ChatFormat, AProgramThatComposesASystemMessageIsNotKnown) {
  const std::string messages =
      R"({{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }})"
      R"({{- '<|im_start|>assistant\n' }})";
  EXPECT_TRUE(RecogniseChatFormat(messages, "", "").ok());
  const auto composed = RecogniseChatFormat(
      R"({{- '<|im_start|>system\n' }}{{- "You call functions." }}{{- '<|im_end|>\n' }})" +
          messages,
      "", "");
  EXPECT_EQ(composed.status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ChatFormat, CommentsOfAProgramSayNothing) {
  const std::string program =
      R"({#- It's the model's way. #}{{- '<|im_start|>' + message.role + '\n' + message.content)"
      R"( + '<|im_end|>' + '\n' }}{# {{ '<think>' }} #}{{- '<|im_start|>assistant\n' }}{# end)";
  EXPECT_EQ(RecogniseChatFormat(program, "", "")->family, "chatml");
}

}  // namespace
}  // namespace kvship
