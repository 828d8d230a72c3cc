// What templates make of tools. The prompts expected are those that Jinja makes of the published
// programs of Qwen2.5-7B-Instruct, Qwen3-0.6B and Llama-3.1-8B-Instruct; here stand the expressions
// by which kvship knows them.
#include "engine/chat_tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/chat_template.h"

namespace kvship {
namespace {

using testing::HasSubstr;

using Messages = std::vector<ChatMessage>;

const std::string kHermesTools =
    R"({%- if tools %}{{- '<|im_start|>system\n' }}{{- "\n\n# Tools\n\nYou may call one or more )"
    R"(functions to assist with the user query.\n\nYou are provided with function signatures )"
    R"(within <tools></tools> XML tags:\n<tools>" }}{%- for tool in tools %}{{- "\n" }})"
    R"({{- tool | tojson }}{%- endfor %}{{- "\n</tools>\n\nFor each function call, return a json )"
    R"(object with function name and arguments within <tool_call></tool_call> XML tags:\n)"
    R"(<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>)"
    R"(<|im_end|>\n" }}{{- '\n<tool_call>\n{"name": "' }}{{- '\n<tool_response>\n' }}{%- endif %})";
const std::string kQwen25 =
    kHermesTools +
    R"({{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful )"
    R"(assistant.<|im_end|>\n' }}{%- for message in messages %}{{- '<|im_start|>' + message.role)"
    R"( + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endfor %})"
    R"({%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %})";
const std::string kQwen3 =
    kHermesTools +
    R"({%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + )"
    R"('<|im_end|>' + '\n' }}{%- set content = content.split('</think>')[-1].lstrip('\n') %})"
    R"({%- if loop.index0 > ns.last_query_index %}{{- '<|im_start|>' + message.role + )"
    R"('\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }})"
    R"({%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }})"
    R"({%- if enable_thinking is defined and enable_thinking is false %})"
    R"({{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %})";
constexpr char kLlama31[] =
    R"({{- bos_token }}{%- set date_string = "26 Jul 2024" %}{#- So that we're in its place. #})"
    R"({{- "<|start_header_id|>system<|end_header_id|>\n\n" }}{{- "Environment: ipython\n" }})"
    R"({{- "Cutting Knowledge Date: December 2023\n" }}{{- "Today Date: " + date_string + "\n\n" }})"
    R"({{- "Given the following functions, please respond with a JSON for a function call " }})"
    R"({{- "with its proper arguments that best answers the given prompt.\n\n" }})"
    R"({{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name )"
    R"(and its value}.' }}{{- "Do not use variables.\n\n" }}{{- t | tojson(indent=4) }})"
    R"({{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] )"
    R"(| trim + '<|eot_id|>' }}{{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }})"
    R"({{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }})";

// As a client sends them: without spaces, in an order that means something.
const std::vector<std::string> kNow = {
    R"({"type":"function","function":{"name":"now","parameters":{}}})"};
const ToolCall kCallNow = {.name = "now", .arguments = "{}"};
const ToolCall kCallWeather = {.name = "weather", .arguments = R"({"town": "Köln", "days": 2})"};

absl::StatusOr<ChatPrompt> Render(const std::string& program, const Messages& messages,
                                  const std::vector<std::string>& tools = kNow) {
  const auto format = RecogniseChatFormat(program, "<s>", "</s>");
  if (!format.ok()) return format.status();
  return ChatTemplate(*format, {}).Render(messages, {.tools = tools});
}

// What Qwen's system messages say of kNow.
const std::string kQwenOfNow =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    R"({"type": "function", "function": {"name": "now", "parameters": {}}})"
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    R"({"name": <function-name>, "arguments": <args-json-object>})"
    "\n</tool_call><|im_end|>\n";

TEST(ChatTools, QwensSystemMessageHasThem) {
  EXPECT_EQ(Render(kQwen25, {{"user", "Hi"}})->text,
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.\n\n" +
                kQwenOfNow + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(Render(kQwen25, {{"system", "Be kind."}, {"user", " Hi "}})->text,
            "<|im_start|>system\nBe kind.\n\n" + kQwenOfNow +
                "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(Render(kQwen3, {{"user", "Hi"}})->text,
            "<|im_start|>system\n" + kQwenOfNow +
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTools, QwensMessagesHaveCallsAndWhatCameOfThem) {
  const std::string after_user =
      "<|im_start|>system\n" + kQwenOfNow + "<|im_start|>user\nHi<|im_end|>\n";
  EXPECT_EQ(Render(kQwen3, {{"user", "Hi"},
                            {"assistant", "Let me see.", {kCallWeather}},
                            {"tool", "wet \"and\"\ncold"},
                            {"assistant", "It is wet."},
                            {"user", "And now?"}})
                ->text,
            after_user +
                "<|im_start|>assistant\nLet me see.\n<tool_call>\n"
                R"({"name": "weather", "arguments": {"town": "Köln", "days": 2}})"
                "\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nwet \"and\"\ncold\n"
                "</tool_response><|im_end|>\n<|im_start|>assistant\nIt is wet.<|im_end|>\n"
                "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(Render(kQwen3, {{"user", "Hi"},
                            {"assistant", "", {kCallNow, kCallWeather}},
                            {"tool", "1"},
                            {"tool", "2"}})
                ->text,
            after_user +
                "<|im_start|>assistant\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n"
                "</tool_call>\n<tool_call>\n"
                R"({"name": "weather", "arguments": {"town": "Köln", "days": 2}})"
                "\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n1\n"
                "</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
                "<|im_start|>assistant\n");
}

TEST(ChatTools, ThoughtsOfQwen3BeforeACallStayUntilTheNextQuestion) {
  const Messages called = {
      {"user", "Hi"}, {"assistant", "<think>\nhm\n</think>\n\n", {kCallNow}}, {"tool", "12:00"}};
  EXPECT_THAT(Render(kQwen3, called)->text,
              HasSubstr("<|im_start|>assistant\n<think>\nhm\n</think>\n\n<tool_call>\n{\"name\""));
  Messages asked = called;
  asked.push_back({"user", "And?"});
  EXPECT_THAT(Render(kQwen3, asked)->text, HasSubstr("<|im_start|>assistant\n<tool_call>\n{"));
  // To Qwen2.5 they are text.
  EXPECT_THAT(Render(kQwen25, called)->text, HasSubstr("\n</think>\n\n\n<tool_call>\n{"));
}

TEST(ChatTools, LlamasFirstUserMessageHasThem) {
  EXPECT_EQ(
      Render(kLlama31, {{"system", "Be kind."}, {"user", " Hi "}})->text,
      "<s><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
      "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe kind.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\n"
      "Given the following functions, please respond with a JSON for a function call with its "
      "proper arguments that best answers the given prompt.\n\n"
      R"(Respond in the format {"name": function name, "parameters": dictionary of argument name )"
      "and its value}.Do not use variables.\n\n"
      "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"now\",\n"
      "        \"parameters\": {}\n    }\n}\n\nHi<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_THAT(
      std::string(Render(kLlama31, {{"assistant", "Hi"}, {"user", "Hi"}}).status().message()),
      HasSubstr("messages[0] is not the user's; wanted that, as llama3 has the tools"));
}

TEST(ChatTools, LlamasMessagesHaveCallsAlone) {
  // Without tools, but with what they said before.
  EXPECT_EQ(Render(kLlama31,
                   {{"user", "Hi"},
                    {"assistant", "Let me see.", {kCallWeather}},
                    {"tool", "wet \"and\"\ncold"},
                    {"assistant", " It is wet. "}},
                   {})
                ->text,
            "<s><|start_header_id|>system<|end_header_id|>\n\n"
            "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
            R"({"name": "weather", "parameters": {"town": "Köln", "days": 2}})"
            "<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"
            R"("wet \"and\"\ncold")"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nIt is wet.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  // Which its own template refuses.
  EXPECT_THAT(Render(kLlama31, {{"user", "Hi"}, {"assistant", "", {kCallNow, kCallNow}}})->text,
              HasSubstr(R"({"name": "now", "parameters": {}}; {"name": "now", "parameters": {}})"
                        "<|eot_id|>"));
}

TEST(ChatTools, AForcedCallIsThePromptsEnd) {
  const auto render = [](const std::string& program, const std::string& name,
                         std::optional<bool> thinks = std::nullopt) -> absl::StatusOr<std::string> {
    const auto format = RecogniseChatFormat(program, "<s>", "</s>");
    const ChatTemplate chat_template(*format, {});
    const Messages hi = {{"user", "Hi"}};
    const auto prompt =
        chat_template.Render(hi, {.thinks = thinks, .tools = kNow, .forced_call = name});
    if (!prompt.ok()) return prompt.status();
    EXPECT_THAT(prompt->text, testing::EndsWith(chat_template.CallBeginning(name)));
    return prompt->text.substr(prompt->text.rfind("Hi") + 2);
  };
  EXPECT_EQ(*render(kQwen25, "now"),
            "<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
            "{\"name\": \"now\", \"arguments\":");
  EXPECT_EQ(*render(kQwen3, ""),
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>\n"
            "{\"name\": \"");
  EXPECT_EQ(*render(kLlama31, "now"),
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            "{\"name\": \"now\", \"parameters\":");
  EXPECT_EQ(render(kQwen3, "now", true).status().code(), absl::StatusCode::kFailedPrecondition);
  const std::string always_thinks = absl::StrReplaceAll(
      kQwen3, {{"{%- if enable_thinking is defined and enable_thinking is false %}", ""}});
  EXPECT_THAT(std::string(render(always_thinks, "now").status().message()),
              HasSubstr("thinking stands before an answer, which here is to begin at once"));
}

// Names of special tokens in it are text: "<|im_end|>" in a description ends no message.
TEST(ChatTools, AllThatClientsSayIsContent) {
  const auto prompt =
      Render(kQwen3, {{"user", "u"}, {"assistant", "a", {{"n", "{\"x\": 1}"}}}, {"tool", "t"}},
             {R"({"name":"f"})"});
  std::vector<std::string> contents;
  for (const TextRange& range : prompt->contents) {
    contents.push_back(prompt->text.substr(range.begin, range.end - range.begin));
  }
  EXPECT_THAT(contents, testing::ElementsAre(R"({"name": "f"})", "u", "a", "n", "{\"x\": 1}", "t"));
  // A mark that is no special token of the model.
  EXPECT_EQ(Render(kQwen3, {{"user", "u"}}, {R"({"name":"<|im_end|>"})"}).status().message(),
            "tools[0] contains <|im_end|>, a mark of the model's chat template; wanted text "
            "without it");
}

TEST(ChatTools, OnesThatCannotBeAreRefused) {
  const auto error = [](const std::string& program, const Messages& messages,
                        const std::vector<std::string>& tools) {
    const absl::Status status = Render(program, messages, tools).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  const Messages hi = {{"user", "Hi"}};
  EXPECT_EQ(error(kQwen25, hi, {"{}", "[]"}), "tools[1] is no JSON object; wanted one");
  const auto forced =
      ChatTemplate(*RecogniseChatFormat(kQwen25, "", ""), {}).Render(hi, {.forced_call = "now"});
  EXPECT_EQ(forced.status().message(), "tools is empty; wanted some for a forced call");
  const std::string plain =
      R"({{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }})"
      R"({{- '<|im_start|>assistant\n' }})";
  EXPECT_THAT(error(plain, hi, kNow),
              HasSubstr("tools has 1 of them; wanted none, as the model's"));
  EXPECT_THAT(error(plain, {{"user", "Hi"}, {"tool", "x"}}, {}),
              HasSubstr("messages[1].role is \"tool\"; wanted system, user or assistant"));
  EXPECT_THAT(error(plain, {{"assistant", "", {kCallNow}}}, {}),
              HasSubstr("messages[0].tool_calls has 1 of them; wanted none, as the model's chat"));
  EXPECT_THAT(error(kQwen25, {{"user", "", {kCallNow}}}, {}), HasSubstr("of the assistant"));
}

}  // namespace
}  // namespace kvship
