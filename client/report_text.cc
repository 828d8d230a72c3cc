#include "client/report_text.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "rpc/message_json.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kNoIndent = -1;

std::string FinishReason(const v1::GenerateReport& report) {
  // Empty for one of a newer server.
  const std::string name = v1::GenerateReport::FinishReason_Name(report.finish_reason());
  return absl::AsciiStrToLower(absl::StripPrefix(name, "FINISH_REASON_"));
}

// Bad UTF-8 cannot come from a server, but must not end a client.
std::string Dump(const Json& json) {
  return json.dump(kNoIndent, ' ', false, Json::error_handler_t::replace);
}

std::string Row(absl::string_view name, absl::string_view value) {
  return absl::StrFormat("%-24s %s\n", name, value);
}

std::string Megabytes(uint64_t bytes) {
  return absl::StrFormat("%.2f MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string Milliseconds(double ms) { return absl::StrFormat("%.1f ms", ms); }

std::string CompressionText(const v1::CompressionOptions& compression) {
  std::string text;
  const Json fields = MessageFields(compression, /*only_set=*/true);
  for (const auto& [name, value] : fields.items()) {
    absl::StrAppend(&text, text.empty() ? "" : ",", name, "=",
                    value.is_string() ? value.get<std::string>() : value.dump());
  }
  return text;
}

}  // namespace

std::string AnswerJson(const Answer& answer) {
  const v1::GenerateReport& report = answer.report;
  Json record = {{"text", answer.text}, {"tokens", Json::array()}};
  Json logprobs = Json::array();
  bool any_top = false;
  for (const v1::OutputToken& token : answer.tokens) {
    record["tokens"].push_back(token.token_id());
    Json top = Json::array();
    for (const v1::TokenLogprob& other : token.top()) top.push_back(MessageFields(other, false));
    any_top |= !top.empty() || token.logprob() != 0;
    logprobs.push_back(
        {{"token_id", token.token_id()}, {"logprob", token.logprob()}, {"top", top}});
  }
  if (any_top) record["logprobs"] = logprobs;
  record["finish_reason"] = FinishReason(report);
  record["usage"] = MessageFields(report.usage(), false);
  record["kv"] = MessageFields(report.kv(), false);
  for (const v1::LayerReport& layer : report.kv().layers()) {
    record["kv"]["layers"].push_back({{"kept_tokens", layer.kept_tokens()},
                                      {"retained_mass", layer.retained_mass()},
                                      {"chosen_mass", layer.chosen_mass()}});
  }
  record["timing"] = MessageFields(report.timing(), false);
  return Dump(record);
}

std::string ReportTable(const v1::GenerateReport& report) {
  const v1::KvReport& kv = report.kv();
  const v1::Timing& timing = report.timing();
  const double ratio = kv.shipped_bytes() == 0 ? 0
                                               : static_cast<double>(kv.uncompressed_bytes()) /
                                                     static_cast<double>(kv.shipped_bytes());
  return absl::StrCat(
      Row("prompt tokens", absl::StrCat(report.usage().prompt_tokens())),
      Row("of them not read anew", absl::StrCat(report.usage().reused_tokens())),
      Row("kept per KV head", absl::StrFormat("%.1f", kv.kept_tokens())),
      Row("KV uncompressed", Megabytes(kv.uncompressed_bytes())),
      Row("KV shipped", absl::StrFormat("%s (%.1fx less) by %s", Megabytes(kv.shipped_bytes()),
                                        ratio, kv.transport())),
      Row("KV in the pool", Megabytes(kv.pool_bytes())),
      Row("retained mass",
          absl::StrFormat("%.4f mean, %.4f smallest (layer %d, head %d)", kv.retained_mass_mean(),
                          kv.retained_mass_min(), kv.retained_mass_min_layer(),
                          kv.retained_mass_min_head())),
      Row("of the prompt's middle", absl::StrFormat("%.4f mean", kv.chosen_mass_mean())),
      Row("compression", CompressionText(kv.compression())),
      Row("queue", Milliseconds(timing.queue_ms())),
      Row("prefill", Milliseconds(timing.prefill_ms())),
      Row("compress", Milliseconds(timing.compress_ms())),
      Row("transfer", Milliseconds(timing.transfer_ms())),
      Row("first decode step", Milliseconds(timing.first_decode_ms())),
      Row("time to first token", Milliseconds(timing.first_token_ms())),
      Row("total", Milliseconds(timing.total_ms())),
      Row("output tokens",
          absl::StrFormat("%d, then %s", report.usage().output_tokens(), FinishReason(report))),
      Row("tokens per second", absl::StrFormat("%.1f", timing.tokens_per_second())));
}

std::string ModelJson(const v1::ModelInfo& model) { return Dump(MessageFields(model, false)); }

std::string ModelTable(const v1::ModelInfo& model) {
  return absl::StrCat(
      Row("model", model.name()), Row("architecture", model.architecture()),
      Row("layers", absl::StrCat(model.num_layers())),
      Row("heads", absl::StrFormat("%d query, %d KV, of %d", model.num_query_heads(),
                                   model.num_kv_heads(), model.head_dim())),
      Row("vocabulary", absl::StrCat(model.vocab_tokens())),
      Row("context", absl::StrCat(model.context_tokens(), " tokens")),
      Row("identity", absl::BytesToHexString(model.identity())),
      Row("default compression", CompressionText(model.default_compression())));
}

}  // namespace kvship
