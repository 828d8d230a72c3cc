#include "decode_service/http/openai_request.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "decode_service/grammar/json_schema.h"
#include "decode_service/http/openai_json.h"
#include "decode_service/http/openai_tools.h"
#include "engine/json_text.h"
#include "engine/sampling.h"
#include "rpc/compression.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

// OpenAI's default, where kvship.v1's is 0.
constexpr double kDefaultTemperature = 1;
constexpr int64_t kMostTokens = INT32_MAX;
constexpr int64_t kMostTimeoutMs = INT32_MAX;  // 24 days
// Of a body, beside token ids. A message of one token has an object and two strings, and takes five
// tokens; a part of one has three values, and takes two. What no prompt shows, as the schema of an
// answer, is to fit beside it.
constexpr size_t kValuesPerToken = 4;
constexpr size_t kMoreValues = 64 << 10;

// {"token id": bias}. ReadRequest checks the ids against the vocabulary.
void ReadLogitBias(JsonFields& fields, v1::SamplingOptions* sampling) {
  const json* value = fields.Value("logit_bias");
  if (value == nullptr) return;
  fields.Check(
      value->is_object() && value->size() <= kMostLogitBiases, "logit_bias",
      absl::StrCat("an object with at most ", kMostLogitBiases, " token ids as its names"));
  if (!value->is_object()) return;
  for (const auto& [name, bias] : value->items()) {
    uint32_t token = 0;
    if (!absl::SimpleAtoi(name, &token) || absl::StrCat(token) != name) {
      return fields.Note(WrongField("logit_bias", absl::StrCat("for ", ShortJson(name)),
                                    "token ids as the names in it"));
    }
    const double number = bias.is_number() ? bias.get<double>() : NAN;
    if (!(number >= -kMostLogitBias && number <= kMostLogitBias)) {
      return fields.Note(WrongField(absl::StrCat("logit_bias.", token), ShortJson(bias),
                                    "a number from -100 to 100"));
    }
    (*sampling->mutable_logit_bias())[token] = static_cast<float>(number);
  }
}

void ReadSampling(JsonFields& fields, uint64_t drawn_seed, v1::SamplingOptions* sampling) {
  sampling->set_temperature(
      fields.Number("temperature", 0, kMostTemperature).value_or(kDefaultTemperature));
  const double top_p = fields.Number("top_p").value_or(1);
  fields.Check(top_p > 0 && top_p <= 1, "top_p", "a number above 0, at most 1");
  sampling->set_top_p(top_p);
  // vLLM and SGLang use -1 for "all".
  const int64_t top_k = fields.Integer("top_k", -1, kMostTokens).value_or(0);
  sampling->set_top_k(static_cast<uint32_t>(std::max<int64_t>(top_k, 0)));
  sampling->set_min_p(fields.Number("min_p", 0, 1).value_or(0));
  sampling->set_presence_penalty(
      fields.Number("presence_penalty", -kMostPenalty, kMostPenalty).value_or(0));
  sampling->set_frequency_penalty(
      fields.Number("frequency_penalty", -kMostPenalty, kMostPenalty).value_or(0));
  sampling->set_repetition_penalty(
      fields.Number("repetition_penalty", kLeastRepetitionPenalty, kMostRepetitionPenalty)
          .value_or(1));
  ReadLogitBias(fields, sampling);
  const auto seed = fields.Integer("seed", INT64_MIN, INT64_MAX);
  sampling->set_seed(seed.has_value() ? static_cast<uint64_t>(*seed) : drawn_seed);
}

void ReadMaxTokens(JsonFields& fields, v1::GenerateRequest* generate) {
  const auto newer = fields.Integer("max_completion_tokens", 1, kMostTokens);
  const auto older = fields.Integer("max_tokens", 1, kMostTokens);
  fields.Check(!newer || !older || *newer == *older, "max_tokens",
               "it left out beside max_completion_tokens");
  generate->set_max_tokens(static_cast<uint32_t>(newer.value_or(older.value_or(0))));
  const auto least = fields.Integer("min_tokens", 0, kMostTokens);
  generate->set_min_tokens(static_cast<uint32_t>(least.value_or(0)));
}

void ReadStop(JsonFields& fields, v1::GenerateRequest* generate) {
  const json* stop = fields.Value("stop");
  if (stop == nullptr) return;
  const json texts = stop->is_array() ? *stop : json::array({*stop});
  for (const json& text : texts) {
    if (!text.is_string()) return fields.Check(false, "stop", "a string or a list of strings");
    generate->add_stop(text.get<std::string>());
  }
}

void ReadStreaming(JsonFields& fields, OpenAiRequest* request) {
  request->stream = fields.Bool("stream").value_or(false);
  const json* value = fields.Value("stream_options");
  if (value == nullptr) return;
  fields.Check(request->stream, "stream_options", "it left out where stream is not true");
  JsonFields options(*value, "stream_options.");
  request->include_usage = options.Bool("include_usage").value_or(false);
  options.Only("include_obfuscation", false);
  options.Only("continuous_usage_stats", false);
  fields.Note(options.Finish());
}

void ReadLogprobs(JsonFields& fields, OpenAiRequest* request) {
  if (request->api == OpenAiApi::kChat) {
    const bool wanted = fields.Bool("logprobs").value_or(false);
    const auto top = fields.Integer("top_logprobs", 0, kMostLogprobs);
    fields.Check(wanted || top.value_or(0) == 0, "top_logprobs",
                 "it left out where logprobs is not true");
    if (wanted) request->num_top_logprobs = top.value_or(0);
  } else {
    request->num_top_logprobs = fields.Integer("logprobs", 0, kMostLogprobs);
  }
  // The sampled token's logprob is reported only along with top tokens.
  if (request->num_top_logprobs) {
    request->generate.set_logprobs(std::max(1u, *request->num_top_logprobs));
  }
}

absl::Status ReadCompression(const json& value, v1::CompressionOptions* compression) {
  if (value.is_string()) {
    ASSIGN_OR_RETURN(*compression, CompressionFromText(value.get_ref<const std::string&>()));
    return absl::OkStatus();
  }
  if (!value.is_object()) {
    return WrongField("kvship.compression", ShortJson(value),
                      "text such as \"scorer=snapkv,budget_tokens=512\" or an object");
  }
  for (const auto& [name, option] : value.items()) {
    if (option.is_null()) continue;
    if (option.is_structured()) {
      return WrongField(absl::StrCat("kvship.compression.", name), ShortJson(option),
                        "a string, a number, true or false");
    }
    RETURN_IF_ERROR(AddCompressionOption(
        name, option.is_string() ? option.get<std::string>() : option.dump(), compression));
  }
  return absl::OkStatus();
}

void ReadExtension(JsonFields& fields, OpenAiRequest* request) {
  const json* value = fields.Value("kvship");
  if (value == nullptr) return;
  JsonFields extension(*value, "kvship.");
  request->report = extension.Bool("report").value_or(false);
  request->progress = extension.Bool("progress").value_or(false);
  extension.Check(!request->report || request->num_choices() == 1, "report",
                  "it left out where there is more than one choice");
  extension.Check(request->stream || !request->progress, "progress",
                  "it left out where stream is not true");
  if (const auto ms = extension.Integer("timeout_ms", 1, kMostTimeoutMs)) {
    request->timeout = absl::Milliseconds(*ms);
  }
  if (const json* compression = extension.Value("compression"); compression != nullptr) {
    extension.Note(ReadCompression(*compression, request->generate.mutable_compression()));
  }
  fields.Note(extension.Finish());
}

void ReadTokenIds(JsonFields& fields, const std::string& path, const json& ids,
                  v1::TokenIds* tokens) {
  for (const json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return fields.Note(WrongField(absl::StrCat(path, "[", tokens->ids_size(), "]"), ShortJson(id),
                                    "a token id, in a list of token ids"));
    }
    tokens->add_ids(id.get<uint32_t>());
  }
}

// A string or a list of token ids.
v1::GenerateRequest ReadPrompt(JsonFields& fields, const std::string& path, const json& prompt) {
  v1::GenerateRequest request;
  if (prompt.is_string()) {
    request.set_prompt(prompt.get<std::string>());
  } else if (prompt.is_array()) {
    ReadTokenIds(fields, path, prompt, request.mutable_tokens());
  } else {
    fields.Note(WrongField(path, ShortJson(prompt), "a string or a list of token ids"));
  }
  return request;
}

// One prompt, or a list of them.
void ReadPrompts(JsonFields& fields, std::vector<v1::GenerateRequest>* prompts) {
  fields.Require("prompt");
  const json* prompt = fields.Value("prompt");
  if (prompt == nullptr) return;
  const bool is_list_of_prompts = prompt->is_array() && !prompt->empty() &&
                                  (prompt->front().is_string() || prompt->front().is_array());
  if (!is_list_of_prompts) return prompts->push_back(ReadPrompt(fields, "prompt", *prompt));
  fields.Check(prompt->size() <= kMostChoices, "prompt",
               absl::StrCat("at most ", kMostChoices, " prompts"));
  if (prompt->size() > kMostChoices) return;
  for (const json& one : *prompt) {
    prompts->push_back(ReadPrompt(fields, absl::StrCat("prompt[", prompts->size(), "]"), one));
  }
}

// Call after ReadPrompts.
void ReadNumChoices(JsonFields& fields, OpenAiRequest* request) {
  const int64_t n = fields.Integer("n", 1, kMostChoices).value_or(1);
  request->choices_per_prompt = static_cast<uint32_t>(n);
  fields.Check(request->num_choices() <= kMostChoices, "n",
               absl::StrCat("at most ", kMostChoices, " choices of all prompts together"));
  // More choices would be generated only to be discarded.
  if (request->api == OpenAiApi::kCompletions) fields.Only("best_of", n);
}

// Text, or a list of parts that are text.
std::string ReadContent(JsonFields& message) {
  const json* content = message.Value("content");
  if (content == nullptr) return "";
  if (content->is_string()) return content->get<std::string>();
  message.Check(content->is_array(), "content", "a string or a list of text parts");
  if (!content->is_array()) return "";
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    JsonFields part((*content)[i], absl::StrCat(message.PathOf("content"), "[", i, "]."));
    const std::string type = part.Text("type").value_or("");
    part.Check(type == "text", "type", "\"text\": this server reads nothing else");
    part.Require("text");
    // On separate lines, so that words of two parts do not run together.
    absl::StrAppend(&text, i == 0 ? "" : "\n", part.Text("text").value_or(""));
    message.Note(part.Finish());
  }
  return text;
}

void ReadMessages(JsonFields& fields, v1::ChatMessages* chat) {
  fields.Require("messages");
  const json* messages = fields.Value("messages");
  if (messages == nullptr) return;
  fields.Check(messages->is_array() && !messages->empty(), "messages",
               "a list of at least one message");
  if (!messages->is_array()) return;
  ToolCallIds call_ids;
  for (size_t i = 0; i < messages->size(); ++i) {
    JsonFields message((*messages)[i], absl::StrCat("messages[", i, "]."));
    message.Require("role");
    std::string role = message.Text("role").value_or("");
    // The newer name of "system".
    if (role == "developer") role = "system";
    message.Check(role == "system" || role == "user" || role == "assistant" || role == "tool",
                  "role", "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"");
    v1::ChatMessage& added = *chat->add_messages();
    added.set_role(role);
    std::optional<std::string> refusal;  // of OpenAI's models, in the place of content
    if (role == "assistant") {
      refusal = message.Text("refusal");
      call_ids.ReadCalls(message, &added);
      // From a response that is sent back as OpenAI's client parsed it; redundant with the rest.
      for (const char* name : {"parsed", "annotations", "provider_specific_fields"}) {
        message.Value(name);
      }
    }
    if (added.tool_calls().empty() && !refusal) message.Require("content");
    added.set_content(ReadContent(message));
    if (added.content().empty() && refusal) added.set_content(*refusal);
    if (role == "tool") call_ids.ReadAnswer(message, chat);
    message.Text("name");  // no known template uses it
    fields.Note(message.Finish());
  }
}

// The form of vLLM and SGLang, for models that may think.
void ReadTemplateArguments(JsonFields& fields, v1::ChatMessages* chat) {
  const json* value = fields.Value("chat_template_kwargs");
  if (value == nullptr) return;
  JsonFields arguments(*value, "chat_template_kwargs.");
  if (const auto thinking = arguments.Bool("enable_thinking")) chat->set_thinking(*thinking);
  fields.Note(arguments.Finish());
}

// {"name": ..., "schema": {...}}. The output is constrained to it whether strict or not.
void ReadNamedSchema(JsonFields& format, v1::GenerateRequest* generate) {
  format.Require("json_schema");
  const json* value = format.Value("json_schema");
  if (value == nullptr) return;
  JsonFields named(*value, format.PathOf("json_schema."));
  named.Text("name");
  named.Text("description");
  named.Bool("strict");
  named.Require("schema");
  const json* schema = named.Value("schema");
  named.Check(schema == nullptr || schema->is_object(), "schema",
              "a JSON schema, which is an object");
  if (schema != nullptr) generate->set_json_schema(schema->dump());
  format.Note(named.Finish());
}

// Call after the fields that it excludes.
void ReadResponseFormat(JsonFields& fields, OpenAiRequest* request) {
  const json* value = fields.Value("response_format");
  if (value == nullptr) return;
  JsonFields format(*value, "response_format.");
  format.Require("type");
  const std::string type = format.Text("type").value_or("");
  format.Check(type == "text" || type == "json_object" || type == "json_schema", "type",
               "\"text\", \"json_object\" or \"json_schema\"");
  if (type == "json_object") request->generate.set_json_schema(kAnyJsonObject);
  if (type == "json_schema") ReadNamedSchema(format, &request->generate);
  fields.Note(format.Finish());
  if (type == "text") return;
  fields.Check(!request->generate.ignore_end_tokens(), "ignore_eos",
               "false where response_format is JSON");
  fields.Check(request->generate.min_tokens() == 0, "min_tokens",
               "0 where response_format is JSON");
  const bool calls = !request->prompts.empty() && request->prompts[0].chat().has_forced_call();
  fields.Check(!calls, "tool_choice", "\"auto\" or \"none\" where response_format is JSON");
}

// Fields that are accepted only with values that change nothing.
void RefuseUnsupported(OpenAiApi api, JsonFields& fields) {
  fields.Only("store", false);
  if (api == OpenAiApi::kCompletions) {
    fields.Only("echo", false);
    fields.Only("suffix", "");
    return;
  }
  fields.Only("functions", json::array());
  fields.Only("function_call", "none");
  fields.Only("modalities", json::array({"text"}));
}

// As vLLM has it: an empty one, which would isolate nothing, is a mistake.
void ReadCacheSalt(JsonFields& fields, v1::GenerateRequest* generate) {
  const auto salt = fields.Text("cache_salt");
  fields.Check(salt != "", "cache_salt", "a string that is not empty");
  generate->set_cache_salt(salt.value_or(""));
}

// Labels for billing, abuse detection or routing; ignored here.
void ReadLabels(JsonFields& fields) {
  for (const char* name : {"user", "safety_identifier", "prompt_cache_key"}) fields.Text(name);
  if (const json* metadata = fields.Value("metadata"); metadata != nullptr) {
    fields.Check(metadata->is_object(), "metadata", "an object");
  }
  const std::string tier = fields.Text("service_tier").value_or("auto");
  fields.Check(tier == "auto" || tier == "default", "service_tier", "\"auto\" or \"default\"");
}

}  // namespace

v1::GenerateRequest OpenAiRequest::Choice(size_t i) const {
  v1::GenerateRequest choice = prompts[i / choices_per_prompt];
  choice.MergeFrom(generate);
  choice.mutable_sampling()->set_seed(generate.sampling().seed() + i % choices_per_prompt);
  return choice;
}

absl::StatusOr<OpenAiRequest> ReadOpenAiRequest(OpenAiApi api, absl::string_view body,
                                                size_t context_tokens, uint64_t drawn_seed) {
  const size_t most_values = kValuesPerToken * context_tokens + kMoreValues;
  ASSIGN_OR_RETURN(const json object, ParseBody(body, most_values));
  OpenAiRequest request;
  request.api = api;
  JsonFields fields(object);
  fields.Require("model");
  request.model = fields.Text("model").value_or("");
  if (api == OpenAiApi::kChat) {
    v1::ChatMessages* chat = request.prompts.emplace_back().mutable_chat();
    ReadMessages(fields, chat);
    ReadTemplateArguments(fields, chat);
    ReadTools(fields, chat);
    chat->set_single_call(!fields.Bool("parallel_tool_calls").value_or(true));
  } else {
    ReadPrompts(fields, &request.prompts);
  }
  ReadNumChoices(fields, &request);
  RefuseUnsupported(api, fields);
  ReadSampling(fields, drawn_seed, request.generate.mutable_sampling());
  ReadMaxTokens(fields, &request.generate);
  ReadStop(fields, &request.generate);
  ReadStreaming(fields, &request);
  ReadLogprobs(fields, &request);
  ReadExtension(fields, &request);
  request.generate.set_ignore_end_tokens(fields.Bool("ignore_eos").value_or(false));
  ReadResponseFormat(fields, &request);
  ReadCacheSalt(fields, &request.generate);
  ReadLabels(fields);
  RETURN_IF_ERROR(fields.Finish());
  return request;
}

}  // namespace kvship
