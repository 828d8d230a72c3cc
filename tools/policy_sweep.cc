#include "tools/policy_sweep.h"

#include <algorithm>
#include <istream>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/json_file.h"
#include "tools/oracle_recall.h"
#include "tools/token_ids.h"

namespace kvship {
namespace {

using nlohmann::json;

struct SweepCase {
  std::vector<int32_t> tokens;
  size_t max_tokens = 0;
  size_t oracle_tokens = 0;
  std::vector<CompressionOptions> compressions;
};

absl::StatusOr<std::vector<int32_t>> ChatTokens(const std::string& message,
                                                const Tokenizer& tokenizer,
                                                const ChatTemplate& chat_template) {
  const ChatMessage user = {.role = "user", .content = message};
  ASSIGN_OR_RETURN(const ChatPrompt prompt, chat_template.Render({&user, 1}));
  return tokenizer.Encode(prompt.text, prompt.contents);
}

absl::StatusOr<std::vector<int32_t>> PromptOf(const JsonObject& fields, const Tokenizer& tokenizer,
                                              const ChatTemplate& chat_template) {
  ASSIGN_OR_RETURN(const std::optional<std::string> message, fields.Text("message"));
  if (message.has_value()) return ChatTokens(*message, tokenizer, chat_template);
  const json* tokens = fields.Find("tokens");
  if (tokens == nullptr) return fields.Bad("message", "is missing; wanted it or tokens");
  return TokenIds(absl::StrCat(fields.where(), ": tokens"), *tokens);
}

absl::StatusOr<std::vector<CompressionOptions>> CompressionsOf(const JsonObject& fields) {
  const json* texts = fields.Find("compressions");
  const bool is_list =
      texts != nullptr && texts->is_array() && !texts->empty() &&
      std::all_of(texts->begin(), texts->end(), [](const json& text) { return text.is_string(); });
  if (!is_list) return fields.Bad("compressions", "is not a list of at least one string");
  std::vector<CompressionOptions> out;
  for (const json& text : *texts) {
    ASSIGN_OR_RETURN(out.emplace_back(), ParseCompression(text.get<std::string>()));
  }
  return out;
}

absl::StatusOr<SweepCase> ReadCase(const std::string& line, const Tokenizer& tokenizer,
                                   const ChatTemplate& chat_template) {
  ASSIGN_OR_RETURN(const JsonFile file, ParseJson("the case", line));
  const JsonObject fields(file);
  SweepCase out;
  ASSIGN_OR_RETURN(out.tokens, PromptOf(fields, tokenizer, chat_template));
  ASSIGN_OR_RETURN(out.max_tokens, fields.RequiredCount("max_tokens"));
  if (out.max_tokens == 0) return fields.Bad("max_tokens", "is 0; wanted at least 1");
  ASSIGN_OR_RETURN(const std::optional<uint64_t> oracle_tokens, fields.Count("oracle_tokens"));
  out.oracle_tokens = oracle_tokens.value_or(0);
  ASSIGN_OR_RETURN(out.compressions, CompressionsOf(fields));
  return out;
}

absl::StatusOr<json> Answer(LocalRun& run, const Tokenizer& tokenizer, size_t max_tokens,
                            LocalRun::Prefilled& prefilled) {
  double mass = 0;
  double kept = 0;
  double heads = 0;
  for (const Compressor::Result& layer : prefilled.layers) {
    for (size_t h = 0; h < layer.positions.size(); ++h) {
      mass += layer.compact.retained_mass[h];
      kept += static_cast<double>(layer.positions[h].size());
      heads += 1;
    }
  }
  ASSIGN_OR_RETURN(const auto output, run.Generate(prefilled, max_tokens, /*stop_at_end=*/true));
  std::string text;
  for (int32_t token : output) {
    if (!tokenizer.IsSpecial(token)) absl::StrAppend(&text, tokenizer.TokenBytes(token));
  }
  return json{{"text", text},
              {"num_bytes", prefilled.num_bytes},
              {"kept_tokens", kept / heads},
              {"retained_mass", mass / heads},
              {"compress_seconds", prefilled.compress_seconds}};
}

void AddRecalls(const FutureAttention& future, const LocalRun::Prefilled& prefilled, json* answer) {
  json& all = (*answer)["recall"] = json::array();
  json& middle = (*answer)["middle_recall"] = json::array();
  for (const LayerRecall& layer : Recalls(future, prefilled)) {
    all.push_back(layer.all);
    middle.push_back(layer.middle);
  }
}

}  // namespace

absl::Status SweepPolicies(LocalRun& run, const Tokenizer& tokenizer,
                           const ChatTemplate& chat_template, std::istream& cases,
                           std::ostream& out) {
  std::string line;
  size_t number = 0;
  while (std::getline(cases, line)) {
    ++number;
    auto wrong = [&](const absl::Status& status) {
      return absl::Status(status.code(), absl::StrCat("line ", number, ": ", status.message()));
    };
    absl::StatusOr<SweepCase> one = ReadCase(line, tokenizer, chat_template);
    if (!one.ok()) return wrong(one.status());
    absl::StatusOr<FutureAttention> future = FutureAttention();
    if (one->oracle_tokens > 0) {
      future = MeasureFutureAttention(run, one->tokens, one->oracle_tokens);
      if (!future.ok()) return wrong(future.status());
    }
    auto prefilled = run.PrefillForEach(one->tokens, one->compressions, one->max_tokens);
    if (!prefilled.ok()) return wrong(prefilled.status());
    json answers = json::array();
    const double prefill_seconds = prefilled->front().prefill_seconds;
    for (LocalRun::Prefilled& each : *prefilled) {
      LocalRun::Prefilled under =
          std::move(each);  // whose memory is free before the next one's turn
      ASSIGN_OR_RETURN(json answer, Answer(run, tokenizer, one->max_tokens, under));
      if (!future->empty()) AddRecalls(*future, under, &answer);
      answers.push_back(std::move(answer));
    }
    const json record = {{"answers", answers},
                         {"prompt_tokens", one->tokens.size()},
                         {"prefill_seconds", prefill_seconds}};
    out << record.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
  }
  if (number > 0) return absl::OkStatus();
  return absl::InvalidArgumentError("cases are empty; wanted one JSON object a line");
}

}  // namespace kvship
