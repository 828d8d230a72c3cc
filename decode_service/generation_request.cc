#include "decode_service/generation_request.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "decode_service/grammar/output_structure.h"
#include "decode_service/tokenize.h"
#include "engine/prefill.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "rpc/sampling.h"

namespace kvship {
namespace {

constexpr int kMostStopTexts = 16;
constexpr size_t kMostStopBytes = 256;
constexpr size_t kMostMessages = 16'384;  // of a chat, with its calls of tools

// Returns the tokenizer; FailedPrecondition if the model has none.
absl::StatusOr<const Tokenizer*> TokenizerFor(absl::string_view field, const ServedModel& model) {
  if (model.tokenizer != nullptr) return model.tokenizer.get();
  return WithField(
      absl::FailedPreconditionError(absl::StrCat(
          field, " is set, but the model of this server has no tokenizer; wanted tokens.ids")),
      field);
}

absl::StatusOr<std::vector<int32_t>> PromptTokens(const v1::GenerateRequest& message,
                                                  const ServedModel& model) {
  if (message.prompt().empty()) return WrongField("prompt", "empty", "text");
  ASSIGN_OR_RETURN(const Tokenizer* tokenizer, TokenizerFor("prompt", model));
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                   TextIds("prompt", message.prompt(),
                           PlainUnless(message.parse_special(), message.prompt()), model));
  if (tokenizer->begin_token() >= 0) tokens.insert(tokens.begin(), tokenizer->begin_token());
  return tokens;
}

// A chat template takes time and memory for each message, also for an empty one: a chat that cannot
// fit the context is refused before it runs.
absl::Status CheckChatSize(const v1::ChatMessages& chat, const ServedModel& model) {
  const size_t most_messages = std::min(kMostMessages, model.config().context_tokens);
  size_t num_messages = 0, num_bytes = 0;
  for (const v1::ChatMessage& message : chat.messages()) {
    num_messages += 1 + static_cast<size_t>(message.tool_calls_size());
    num_bytes += message.role().size() + message.content().size();
    for (const v1::ToolCall& call : message.tool_calls()) {
      num_bytes += call.name().size() + call.arguments().size();
    }
  }
  if (num_messages > most_messages) {
    return WithReason(
        WithField(absl::FailedPreconditionError(
                      absl::StrCat("chat.messages has ", num_messages,
                                   " messages and calls of tools; wanted at most ", most_messages)),
                  "chat.messages"),
        kContextLengthExceeded);
  }
  for (const std::string& tool : chat.tools()) num_bytes += tool.size();
  return CheckTextBytes("chat.messages", num_bytes, model);
}

absl::StatusOr<std::vector<int32_t>> ChatTokens(const v1::ChatMessages& chat, bool answers_at_once,
                                                const ServedModel& model) {
  if (chat.messages_size() == 0) {
    return WrongField("chat.messages", "empty", "at least one message");
  }
  RETURN_IF_ERROR(TokenizerFor("chat", model).status());
  if (!model.chat_template) {
    return WithField(absl::FailedPreconditionError(
                         absl::StrCat("chat is set, but this server cannot format it: ",
                                      model.why_no_chat_template.message(), "; wanted a prompt")),
                     "chat");
  }
  RETURN_IF_ERROR(CheckChatSize(chat, model));
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& m : chat.messages()) {
    messages.push_back({m.role(), m.content()});
    for (const v1::ToolCall& call : m.tool_calls()) {
      messages.back().tool_calls.push_back({call.name(), call.arguments()});
    }
  }
  const std::vector<std::string> tools(chat.tools().begin(), chat.tools().end());
  const absl::StatusOr<ChatPrompt> prompt = model.chat_template->Render(
      messages,
      {.thinks = chat.has_thinking() ? std::optional(chat.thinking()) : std::nullopt,
       .tools = tools,
       .forced_call = chat.has_forced_call() ? std::optional(chat.forced_call()) : std::nullopt,
       .answers_at_once = answers_at_once});
  if (absl::IsFailedPrecondition(prompt.status())) {
    return WithField(
        absl::FailedPreconditionError(absl::StrCat("chat.", prompt.status().message())),
        "chat.thinking");
  }
  if (!prompt.ok()) {
    const bool is_of_tools = absl::StartsWith(prompt.status().message(), "tools");
    return WithField(prompt.status(), is_of_tools ? "chat.tools" : "chat.messages");
  }
  return TextIds("chat.messages", prompt->text, prompt->contents, model);
}

absl::StatusOr<std::vector<int32_t>> InputTokens(const v1::GenerateRequest& message,
                                                 const ServedModel& model) {
  switch (message.input_case()) {
    case v1::GenerateRequest::kPrompt: return PromptTokens(message, model);
    case v1::GenerateRequest::kChat:
      return ChatTokens(message.chat(), !message.json_schema().empty(), model);
    case v1::GenerateRequest::kTokens:
      if (message.tokens().ids().empty()) {
        return WrongField("tokens.ids", "empty", "at least one id");
      }
      return TokenIds("tokens.ids", message.tokens().ids(), model);
    case v1::GenerateRequest::INPUT_NOT_SET: break;
  }
  return WrongField("input", "not set", "one of prompt, chat and tokens");
}

absl::Status CheckStop(const v1::GenerateRequest& message, const ServedModel& model) {
  if (message.stop_size() > kMostStopTexts) {
    return WrongField("stop", absl::StrCat("a list of ", message.stop_size()),
                      absl::StrCat("at most ", kMostStopTexts, " texts"));
  }
  for (int i = 0; i < message.stop_size(); ++i) {
    const std::string& stop = message.stop(i);
    if (!stop.empty() && stop.size() <= kMostStopBytes) continue;
    return WrongField(absl::StrCat("stop[", i, "]"),
                      stop.empty() ? "empty" : absl::StrCat("a text of ", stop.size(), " bytes"),
                      absl::StrCat("1 to ", kMostStopBytes, " bytes"));
  }
  if (message.stop_size() > 0) RETURN_IF_ERROR(TokenizerFor("stop", model).status());
  return absl::OkStatus();
}

absl::Status CheckForcedTokens(const v1::GenerateRequest& message) {
  if (message.forced_tokens().empty()) return absl::OkStatus();
  const std::string given = absl::StrCat("a list of ", message.forced_tokens_size());
  if (message.stop_size() > 0) {
    return WrongField("forced_tokens", given, "no stop texts beside it");
  }
  if (message.max_tokens() > 0) {
    return WrongField("forced_tokens", given, "max_tokens left at 0 beside it");
  }
  return absl::OkStatus();
}

// Reads the structure that constrains the output, if any, and the field that sets it.
absl::Status ReadStructure(const v1::GenerateRequest& message, const ServedModel& model,
                           GenerationRequest* request) {
  std::string& field = request->structure_field;
  field = message.chat().has_forced_call() ? "chat.forced_call" : "chat.tools";
  if (!message.json_schema().empty()) {
    field = "json_schema";
    RETURN_IF_ERROR(TokenizerFor(field, model).status());
    if (message.chat().has_forced_call()) {
      return WrongField(field, "set", "it left out beside a forced call");
    }
  }
  const ToolSyntax syntax =
      model.chat_template ? model.chat_template->traits().tool_syntax : ToolSyntax::kNone;
  ASSIGN_OR_RETURN(request->structure, OutputStructure(message, syntax));
  if (request->structure.empty()) return absl::OkStatus();
  if (!message.forced_tokens().empty()) {
    return WrongField(field, "set", "it left out beside forced_tokens");
  }
  if (message.ignore_end_tokens()) {
    return WrongField(field, "set", "end tokens heeded beside it");
  }
  if (message.min_tokens() > 0) {
    return WrongField(field, "set", "min_tokens left at 0 beside it");
  }
  if (model.end_tokens().empty()) {
    return WithField(
        absl::FailedPreconditionError(absl::StrCat(
            field, " is set, but no token of the model ends its outputs; wanted it left out")),
        field);
  }
  return absl::OkStatus();
}

// The special tokens that mark tool calls or thoughts and so must appear in the text. Call after
// ReadStructure.
std::vector<int32_t> ShownTokens(const v1::GenerateRequest& message, const ServedModel& model,
                                 absl::string_view structure) {
  std::vector<int32_t> shown;
  if (message.has_chat()) shown = model.thought_tokens;
  for (const int32_t token : model.call_tokens) {
    const bool is_held = absl::StrContains(structure, model.tokenizer->TokenBytes(token));
    if (is_held || !message.chat().tools().empty()) shown.push_back(token);
  }
  return shown;
}

absl::string_view InputField(const v1::GenerateRequest& message) {
  switch (message.input_case()) {
    case v1::GenerateRequest::kChat: return "chat.messages";
    case v1::GenerateRequest::kTokens: return "tokens.ids";
    default: return "prompt";
  }
}

absl::Status ExceedsContext(absl::string_view field, absl::string_view message) {
  return WithReason(WithField(absl::FailedPreconditionError(message), field),
                    kContextLengthExceeded);
}

// The maximum number of output tokens that fit the context.
absl::StatusOr<size_t> MaxTokens(const v1::GenerateRequest& message, size_t prompt_tokens,
                                 const ServedModel& model, const RequestLimits& limits) {
  const size_t context = limits.ContextOf(model.config());
  if (prompt_tokens >= context) {
    return ExceedsContext(
        InputField(message),
        absl::StrCat("the prompt has ", prompt_tokens, " tokens; wanted fewer than the ", context,
                     " that prompt and output may have together"));
  }
  const size_t room = context - prompt_tokens;
  const bool forced = !message.forced_tokens().empty();
  const size_t wanted = forced ? message.forced_tokens_size() : message.max_tokens();
  if (wanted > room) {
    const absl::string_view field = forced ? "forced_tokens" : "max_tokens";
    return ExceedsContext(field,
                          absl::StrCat(forced ? "the length of " : "", field, " is ", wanted,
                                       "; wanted at most ", room, ", as prompt (", prompt_tokens,
                                       " tokens) and output may have ", context, " together"));
  }
  return wanted > 0 ? wanted : std::min(limits.default_max_tokens, room);
}

// Call after max_tokens is set.
absl::Status ReadMinTokens(const v1::GenerateRequest& message, const ModelConfig& model,
                           GenerationRequest* request) {
  OutputOptions& output = request->output;
  output.min_tokens = message.min_tokens();
  if (output.min_tokens == 0) return absl::OkStatus();
  if (!output.forced_tokens.empty()) {
    return WrongField("min_tokens", absl::StrCat(output.min_tokens), "0 beside forced_tokens");
  }
  if (output.min_tokens > output.max_tokens) {
    return WrongField("min_tokens", absl::StrCat(output.min_tokens),
                      absl::StrCat("at most max_tokens, ", output.max_tokens));
  }
  request->first_token_mask = AllTokensBut(output.end_tokens, model.vocab_tokens);
  return absl::OkStatus();
}

absl::Status CheckKeptTokens(const KvPlan& plan, const RequestLimits& limits) {
  const size_t total =
      std::accumulate(plan.layer_tokens.begin(), plan.layer_tokens.end(), size_t{0});
  const size_t kept = total / (plan.layer_tokens.size() * plan.num_kv_heads);
  if (limits.max_kept_tokens == 0 || kept <= limits.max_kept_tokens) return absl::OkStatus();
  return WithField(absl::FailedPreconditionError(absl::StrCat(
                       "compression keeps ", kept, " tokens per KV head; this server allows ",
                       limits.max_kept_tokens, ", wanted a smaller budget")),
                   "compression");
}

}  // namespace

size_t RequestLimits::ContextOf(const ModelConfig& model) const {
  return context_tokens == 0 ? model.context_tokens
                             : std::min(context_tokens, model.context_tokens);
}

ToolCallReader CallsIn(const v1::ChatMessages& chat, bool has_schema, const ServedModel& model) {
  if (chat.tools().empty() || !model.chat_template) {
    return ToolCallReader(ToolSyntax::kNone, /*thinks=*/false);
  }
  const ChatTraits& traits = model.chat_template->traits();
  const bool may_think = chat.has_thinking() ? chat.thinking() : traits.thinks;
  const bool answers_at_once = chat.has_forced_call() || has_schema;
  const std::vector<std::string> tools(chat.tools().begin(), chat.tools().end());
  ToolCallReader reader(traits.tool_syntax, may_think && !answers_at_once, tools,
                        model.CallTokenNames());
  if (chat.has_forced_call()) reader.Add(CallBeginning(traits.tool_syntax, chat.forced_call()));
  return reader;
}

absl::StatusOr<GenerationRequest> ReadRequest(const v1::GenerateRequest& message,
                                              const ServedModel& model,
                                              const RequestLimits& limits) {
  GenerationRequest request;
  OutputOptions& output = request.output;
  ASSIGN_OR_RETURN(output.sampling,
                   SamplingFromProto(message.sampling(), model.config().vocab_tokens));
  RETURN_IF_ERROR(CheckLogprobs(message.logprobs()));
  output.num_logprobs = message.logprobs();
  request.report_heads = message.report_heads();
  RETURN_IF_ERROR(CheckMostBytes("cache_salt", message.cache_salt(), kMostCacheSaltBytes));
  request.cache_salt = message.cache_salt();
  RETURN_IF_ERROR(CheckStop(message, model));
  output.stop.assign(message.stop().begin(), message.stop().end());
  RETURN_IF_ERROR(CheckForcedTokens(message));
  ASSIGN_OR_RETURN(output.forced_tokens, TokenIds("forced_tokens", message.forced_tokens(), model));
  if (!message.ignore_end_tokens() && output.forced_tokens.empty()) {
    output.end_tokens = model.end_tokens();
  }
  ASSIGN_OR_RETURN(request.compression,
                   CompressionFromProto(message.compression(), limits.default_compression));

  ASSIGN_OR_RETURN(request.tokens, InputTokens(message, model));
  request.compression = ForPrompt(request.compression, request.tokens.size());
  RETURN_IF_ERROR(ReadStructure(message, model, &request));
  output.shown_tokens = ShownTokens(message, model, request.structure);
  if (message.chat().single_call()) {
    output.single_call = CallsIn(message.chat(), !message.json_schema().empty(), model);
  }
  ASSIGN_OR_RETURN(output.max_tokens, MaxTokens(message, request.tokens.size(), model, limits));
  RETURN_IF_ERROR(ReadMinTokens(message, model.config(), &request));
  auto plan = MakePlan(request.compression, ShapeOf(model.config()), request.tokens.size());
  if (!plan.ok()) return WithCompressionField(plan.status());
  request.plan = *std::move(plan);
  RETURN_IF_ERROR(CheckKeptTokens(request.plan, limits));
  return request;
}

}  // namespace kvship
