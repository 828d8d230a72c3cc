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

Json Usage(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"completion_tokens", usage.output_tokens()},
          {"total_tokens", usage.prompt_tokens() + usage.output_tokens()},
          {"prompt_tokens_details", {{"cached_tokens", usage.reused_tokens()}}}};
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
      heading_(std::move(heading)) {
  if (request.num_top_logprobs) logprobs_.emplace(api_, *request.num_top_logprobs, tokenizer);
}

Json OpenAiResponse::Object(absl::string_view kind) const {
  const char* prefix = api_ == OpenAiApi::kChat ? "chatcmpl-" : "cmpl-";
  return {{"id", absl::StrCat(prefix, heading_.id)},
          {"object", std::string(kind)},
          {"created", heading_.created},
          {"model", heading_.model},
          {"system_fingerprint", heading_.fingerprint}};
}

Json OpenAiResponse::Logprobs(const OpenAiLogprobs::Tokens& tokens) {
  return logprobs_ ? logprobs_->Add(tokens) : Json();
}

void OpenAiResponse::Add(const v1::GenerateOutput& output) {
  text_ += output.text();
  if (logprobs_) tokens_.MergeFrom(output.tokens());
}

std::string OpenAiResponse::Whole(const v1::GenerateReport& report) {
  const bool chat = api_ == OpenAiApi::kChat;
  Json choice = {{"index", 0}};
  if (chat) {
    choice["message"] = {{"role", "assistant"}, {"content", text_}, {"refusal", nullptr}};
  } else {
    choice["text"] = text_;
  }
  choice["logprobs"] = Logprobs(tokens_);
  choice["finish_reason"] = FinishReason(report);
  Json object = Object(chat ? "chat.completion" : "text_completion");
  object["choices"] = Json::array({std::move(choice)});
  object["usage"] = Usage(report.usage());
  if (report_) object["kvship"] = Report(report);
  return Dump(object);
}

Json OpenAiResponse::Chunk() const {
  Json chunk = Object(api_ == OpenAiApi::kChat ? "chat.completion.chunk" : "text_completion");
  if (include_usage_) chunk["usage"] = nullptr;  // in all but the last
  return chunk;
}

Json OpenAiResponse::ChunkChoices(const std::string& text, Json logprobs, Json finish_reason) {
  Json choice = {{"index", 0}};
  if (api_ == OpenAiApi::kCompletions) {
    choice["text"] = text;
  } else {
    choice["delta"] = Json::object();
    if (!std::exchange(began_, true)) choice["delta"]["role"] = "assistant";
    if (finish_reason.is_null()) choice["delta"]["content"] = text;
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = std::move(finish_reason);
  return Json::array({std::move(choice)});
}

std::string OpenAiResponse::Event(const v1::GenerateOutput& output) {
  if (output.text().empty() && !logprobs_) return "";
  Json chunk = Chunk();
  chunk["choices"] = ChunkChoices(output.text(), Logprobs(output.tokens()), nullptr);
  return DataEvent(chunk);
}

std::string OpenAiResponse::LastEvents(const v1::GenerateReport& report) {
  Json finish = Chunk();
  finish["choices"] = ChunkChoices("", nullptr, FinishReason(report));
  Json usage = Chunk();
  usage["choices"] = Json::array();
  usage["usage"] = Usage(report.usage());
  if (report_) (include_usage_ ? usage : finish)["kvship"] = Report(report);
  return absl::StrCat(DataEvent(finish), include_usage_ ? DataEvent(usage) : "", kEndOfStream);
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
