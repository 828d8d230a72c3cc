#include "decode_service/http/openai_response.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "decode_service/http/openai_error.h"
#include "rpc/message_json.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kEndOfStream[] = "data: [DONE]\n\n";

// Output text is valid UTF-8; a model's name may not be.
std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string DataEvent(const Json& json) { return absl::StrCat("data: ", Dump(json), "\n\n"); }

// Null if none were requested.
Json Logprobs(std::optional<OpenAiLogprobs>& logprobs, const OpenAiLogprobs::Tokens& tokens) {
  return logprobs ? logprobs->Add(tokens) : Json();
}

Json Report(const v1::GenerateReport& report) {
  Json kv = MessageFields(report.kv(), /*only_set=*/false);
  kv["ratio"] = report.kv().shipped_bytes() == 0
                    ? 0
                    : static_cast<double>(report.kv().uncompressed_bytes()) /
                          static_cast<double>(report.kv().shipped_bytes());
  return {{"kv", std::move(kv)}, {"timing", MessageFields(report.timing(), /*only_set=*/false)}};
}

Json Model(const std::string& id, int64_t created, size_t context_tokens) {
  return {{"id", id},           {"object", "model"},
          {"created", created}, {"owned_by", "kvship"},
          {"root", id},  // for clients of vLLM
          {"parent", nullptr},  {"max_model_len", context_tokens}};
}

}  // namespace

OpenAiResponse::OpenAiResponse(const OpenAiRequest& request, Heading heading,
                               const Tokenizer* tokenizer, const ToolCallReader& calls)
    : api_(request.api),
      include_usage_(request.include_usage),
      report_(request.report),
      heading_(std::move(heading)),
      choices_per_prompt_(request.choices_per_prompt) {
  for (size_t i = 0; i < request.num_choices(); ++i) {
    choices_.push_back(
        {.calls = OpenAiToolCalls(calls, absl::StrCat(heading_.id, "_", i),
                                  request.prompts[0].chat().single_call() ? 1 : SIZE_MAX)});
    if (!request.num_top_logprobs) continue;
    choices_.back().logprobs.emplace(api_, *request.num_top_logprobs, tokenizer);
  }
}

Json OpenAiResponse::Object(absl::string_view kind) const {
  const char* prefix = api_ == OpenAiApi::kChat ? "chatcmpl-" : "cmpl-";
  return {{"id", absl::StrCat(prefix, heading_.id)},
          {"object", std::string(kind)},
          {"created", heading_.created},
          {"model", heading_.model},
          {"system_fingerprint", heading_.fingerprint}};
}

Json OpenAiResponse::Usage() const {
  uint64_t prompt = 0, reused = 0, output = 0;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const v1::Usage& usage = choices_[i].report->usage();
    output += usage.output_tokens();
    if (i % choices_per_prompt_ != 0) continue;  // its prompt is counted already
    prompt += usage.prompt_tokens();
    reused += usage.reused_tokens();
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", output},
          {"total_tokens", prompt + output},
          {"prompt_tokens_details", {{"cached_tokens", reused}}}};
}

void OpenAiResponse::Add(size_t index, const v1::GenerateOutput& output) {
  Choice& choice = choices_[index];
  choice.text += choice.calls.Add(output.text());
  if (choice.logprobs) choice.tokens.MergeFrom(output.tokens());
}

void OpenAiResponse::End(size_t index, const v1::GenerateReport& report) {
  Choice& choice = choices_[index];
  choice.text += choice.calls.Finish();
  choice.report = report;
  ++num_ended_;
}

Json OpenAiResponse::FinishReason(const Choice& choice) {
  if (choice.report->finish_reason() == v1::GenerateReport::FINISH_REASON_LENGTH) return "length";
  return choice.calls.all().empty() ? "stop" : "tool_calls";
}

Json OpenAiResponse::WholeChoice(size_t index) {
  Choice& choice = choices_[index];
  Json json = {{"index", index}};
  if (api_ == OpenAiApi::kChat) {
    Json& message = json["message"];
    message = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    if (!choice.calls.all().empty()) {
      if (choice.text.empty()) message["content"] = nullptr;
      message["tool_calls"] = choice.calls.all();
    }
  } else {
    json["text"] = choice.text;
  }
  json["logprobs"] = Logprobs(choice.logprobs, choice.tokens);
  json["finish_reason"] = FinishReason(choice);
  return json;
}

std::string OpenAiResponse::Whole() {
  Json object = Object(api_ == OpenAiApi::kChat ? "chat.completion" : "text_completion");
  object["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) object["choices"].push_back(WholeChoice(i));
  object["usage"] = Usage();
  if (report_) object["kvship"] = Report(*choices_[0].report);
  return Dump(object);
}

Json OpenAiResponse::Chunk() const {
  Json chunk = Object(api_ == OpenAiApi::kChat ? "chat.completion.chunk" : "text_completion");
  if (include_usage_) chunk["usage"] = nullptr;  // in all chunks but the last
  return chunk;
}

Json OpenAiResponse::ChunkChoices(size_t index, const std::string& text, Json logprobs,
                                  Json finish_reason) {
  Choice& choice = choices_[index];
  Json json = {{"index", index}};
  if (api_ == OpenAiApi::kCompletions) {
    json["text"] = text;
  } else {
    Json& delta = json["delta"] = Json::object();
    if (!std::exchange(choice.began, true)) delta["role"] = "assistant";
    const bool calls = choice.calls.has_new();
    if (finish_reason.is_null() && !(calls && text.empty())) delta["content"] = text;
    if (calls) delta["tool_calls"] = choice.calls.TakeNew();
  }
  json["logprobs"] = std::move(logprobs);
  json["finish_reason"] = std::move(finish_reason);
  return Json::array({std::move(json)});
}

std::string OpenAiResponse::TextEvent(size_t choice, Json logprobs) {
  const std::string text = std::exchange(choices_[choice].text, "");
  if (text.empty() && !choices_[choice].calls.has_new() && logprobs.is_null()) return "";
  Json chunk = Chunk();
  chunk["choices"] = ChunkChoices(choice, text, std::move(logprobs), nullptr);
  return DataEvent(chunk);
}

std::string OpenAiResponse::Event(size_t choice, const v1::GenerateOutput& output) {
  choices_[choice].text += choices_[choice].calls.Add(output.text());
  return TextEvent(choice, Logprobs(choices_[choice].logprobs, output.tokens()));
}

std::string OpenAiResponse::LastEvents(size_t choice, const v1::GenerateReport& report) {
  End(choice, report);
  std::string events = TextEvent(choice, nullptr);
  Json finish = Chunk();
  finish["choices"] = ChunkChoices(choice, "", nullptr, FinishReason(choices_[choice]));
  if (report_ && !include_usage_) finish["kvship"] = Report(report);
  events += DataEvent(finish);
  if (num_ended_ < choices_.size()) return events;
  if (!include_usage_) return events + kEndOfStream;
  Json usage = Chunk();
  usage["choices"] = Json::array();
  usage["usage"] = Usage();
  if (report_) usage["kvship"] = Report(report);
  return absl::StrCat(events, DataEvent(usage), kEndOfStream);
}

std::string CommentEvent(const v1::GenerateProgress& progress) {
  if (progress.phase() != v1::GenerateProgress::PHASE_PREFILL) return ": queued\n\n";
  return absl::StrFormat(": prefill %.0f%%\n\n", 100 * progress.fraction());
}

std::string ErrorEvent(const absl::Status& status) {
  return absl::StrCat("data: ", OpenAiErrorOf(status).Json(), "\n\n");
}

std::string ModelListJson(const std::string& id, int64_t created, size_t context_tokens) {
  return Dump({{"object", "list"}, {"data", Json::array({Model(id, created, context_tokens)})}});
}

std::string ModelJson(const std::string& id, int64_t created, size_t context_tokens) {
  return Dump(Model(id, created, context_tokens));
}

}  // namespace kvship
