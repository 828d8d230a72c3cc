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

// Output text is whole UTF-8; a model's name may be anything.
std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string DataEvent(const Json& json) { return absl::StrCat("data: ", Dump(json), "\n\n"); }

Json FinishReason(const v1::GenerateReport& report) {
  return report.finish_reason() == v1::GenerateReport::FINISH_REASON_LENGTH ? "length" : "stop";
}

// Null where none are wanted.
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
          {"root", id},  // vLLM's clients read it
          {"parent", nullptr},  {"max_model_len", context_tokens}};
}

}  // namespace

OpenAiResponse::OpenAiResponse(const OpenAiRequest& request, Heading heading,
                               const Tokenizer* tokenizer)
    : api_(request.api),
      include_usage_(request.include_usage),
      report_(request.report),
      heading_(std::move(heading)),
      choices_per_prompt_(request.choices_per_prompt),
      choices_(request.num_choices()) {
  if (!request.num_top_logprobs) return;
  for (Choice& choice : choices_) {
    choice.logprobs.emplace(api_, *request.num_top_logprobs, tokenizer);
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
    if (i % choices_per_prompt_ != 0) continue;  // its prompt was counted
    prompt += usage.prompt_tokens();
    reused += usage.reused_tokens();
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", output},
          {"total_tokens", prompt + output},
          {"prompt_tokens_details", {{"cached_tokens", reused}}}};
}

void OpenAiResponse::Add(size_t choice, const v1::GenerateOutput& output) {
  choices_[choice].text += output.text();
  if (choices_[choice].logprobs) choices_[choice].tokens.MergeFrom(output.tokens());
}

void OpenAiResponse::End(size_t choice, const v1::GenerateReport& report) {
  choices_[choice].report = report;
  ++num_ended_;
}

Json OpenAiResponse::WholeChoice(size_t choice) {
  Choice& ended = choices_[choice];
  Json json = {{"index", choice}};
  if (api_ == OpenAiApi::kChat) {
    json["message"] = {{"role", "assistant"}, {"content", ended.text}, {"refusal", nullptr}};
  } else {
    json["text"] = ended.text;
  }
  json["logprobs"] = Logprobs(ended.logprobs, ended.tokens);
  json["finish_reason"] = FinishReason(*ended.report);
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
  if (include_usage_) chunk["usage"] = nullptr;  // in all but the last
  return chunk;
}

Json OpenAiResponse::ChunkChoices(size_t choice, const std::string& text, Json logprobs,
                                  Json finish_reason) {
  Json json = {{"index", choice}};
  if (api_ == OpenAiApi::kCompletions) {
    json["text"] = text;
  } else {
    json["delta"] = Json::object();
    if (!std::exchange(choices_[choice].began, true)) json["delta"]["role"] = "assistant";
    if (finish_reason.is_null()) json["delta"]["content"] = text;
  }
  json["logprobs"] = std::move(logprobs);
  json["finish_reason"] = std::move(finish_reason);
  return Json::array({std::move(json)});
}

std::string OpenAiResponse::Event(size_t choice, const v1::GenerateOutput& output) {
  std::optional<OpenAiLogprobs>& logprobs = choices_[choice].logprobs;
  if (output.text().empty() && !logprobs) return "";
  Json chunk = Chunk();
  chunk["choices"] =
      ChunkChoices(choice, output.text(), Logprobs(logprobs, output.tokens()), nullptr);
  return DataEvent(chunk);
}

std::string OpenAiResponse::LastEvents(size_t choice, const v1::GenerateReport& report) {
  End(choice, report);
  Json finish = Chunk();
  finish["choices"] = ChunkChoices(choice, "", nullptr, FinishReason(report));
  if (report_ && !include_usage_) finish["kvship"] = Report(report);
  if (num_ended_ < choices_.size()) return DataEvent(finish);
  if (!include_usage_) return absl::StrCat(DataEvent(finish), kEndOfStream);
  Json usage = Chunk();
  usage["choices"] = Json::array();
  usage["usage"] = Usage();
  if (report_) usage["kvship"] = Report(report);
  return absl::StrCat(DataEvent(finish), DataEvent(usage), kEndOfStream);
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
