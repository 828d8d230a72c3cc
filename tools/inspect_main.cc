// kvship-inspect runs a model file in one process and prints JSON, for people who compare
// implementations.
#include <sys/resource.h>

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/command_line.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "engine/end_tokens.h"
#include "engine/model_identity.h"
#include "engine/sampling.h"
#include "engine/tokenizer.h"
#include "engine/transformer.h"
#include "tools/local_run.h"
#include "tools/policy_sweep.h"
#include "tools/token_ids.h"
#include "tools/window_attention.h"

ABSL_FLAG(std::string, text_file, "", "tokenize: the text");
ABSL_FLAG(bool, special, false,
          "tokenize: names of special tokens in the text become those tokens");
ABSL_FLAG(std::string, tokens_file, "", "a JSON list of token ids: the prompt");
ABSL_FLAG(std::vector<std::string>, positions, {}, "logits: the positions to print, 0,5,95");
ABSL_FLAG(bool, float32, false, "compute on dequantized float32 weights, with a float32 cache");
ABSL_FLAG(size_t, max_tokens, 32, "generate, bench: output tokens");
ABSL_FLAG(std::string, options, "{}", "compress: compression options as JSON");
ABSL_FLAG(std::string, compression, "scorer=keep_all", "generate, bench: options in text form");
ABSL_FLAG(std::string, cases_file, "", "sweep: one JSON object a line");
ABSL_FLAG(size_t, prefix_tokens, 0, "attention: the keys that are looked at");
ABSL_FLAG(size_t, generated_from, SIZE_MAX,
          "attention: windows from this token on are looked at query by query");
ABSL_FLAG(std::vector<std::string>, windows, {}, "attention: windows of queries, 896:1024,...");
ABSL_FLAG(size_t, threads, 0, "threads, at most 1024; 0: one per processor");

namespace kvship {
namespace {

using nlohmann::json;

constexpr char kUsage[] =
    "kvship-inspect COMMAND PATH [flags]\n"
    "  model PATH                                          shape and identity\n"
    "  tokenize PATH --text-file F [--special]             {\"ids\": [...]}\n"
    "  logits PATH --tokens-file F --positions 0,5 [--float32]\n"
    "  generate PATH --tokens-file F --max-tokens N [--float32] [--compression=...]\n"
    "  compress PATH --tokens-file F --options JSON        kept positions and scores\n"
    "  attention PATH --tokens-file F --prefix-tokens N --windows 896:1024,1024:1152\n"
    "      [--generated-from M]                             which tokens windows vote for\n"
    "  sweep PATH --cases-file F                           answers under many compressions\n"
    "  bench PATH --tokens-file F --max-tokens N [--compression=...]";

absl::StatusOr<std::string> ReadText(const std::string& flag, const std::string& path) {
  std::optional<std::string> text = ReadFile(path);
  if (text.has_value()) return *std::move(text);
  return absl::NotFoundError(absl::StrCat(flag, " is '", path, "', which cannot be read"));
}

absl::StatusOr<std::vector<int32_t>> ReadTokens() {
  ASSIGN_OR_RETURN(const std::string text,
                   ReadText("--tokens-file", absl::GetFlag(FLAGS_tokens_file)));
  return TokenIds("--tokens-file", json::parse(text, nullptr, /*allow_exceptions=*/false));
}

LocalRun::Options RunOptions(bool float32) {
  return {.arithmetic = float32 ? Arithmetic::kFloat32 : Arithmetic::kFast,
          .num_threads = NumThreads(absl::GetFlag(FLAGS_threads)),
          .tail_format = float32 ? PageFormat::kF32 : PageFormat::kF16};
}

absl::StatusOr<CompressionOptions> TextCompression(bool float32) {
  CompressionOptions defaults;
  if (float32) defaults.encoder = PageFormat::kF32;
  return ParseCompression(absl::GetFlag(FLAGS_compression), defaults);
}

absl::StatusOr<CompressionOptions> JsonCompression() {
  const json fields = json::parse(absl::GetFlag(FLAGS_options), nullptr, false);
  if (!fields.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--options is '", absl::GetFlag(FLAGS_options), "'; wanted a JSON object"));
  }
  std::vector<std::string> options;
  for (const auto& [name, value] : fields.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    options.push_back(absl::StrCat(name, "=", text));
  }
  return ParseCompression(absl::StrJoin(options, ","));
}

absl::StatusOr<json> Model(const std::string& path) {
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  ASSIGN_OR_RETURN(const Sha256Digest identity, ModelIdentity(*model, path));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::LoadIfPresent(path));
  const ModelConfig& c = model->config;
  return json{{"name", c.name},
              {"architecture", c.architecture},
              {"num_layers", c.num_layers},
              {"hidden_dim", c.hidden_dim},
              {"num_query_heads", c.num_query_heads},
              {"num_kv_heads", c.num_kv_heads},
              {"head_dim", c.head_dim},
              {"ffn_dim", c.ffn_dim},
              {"num_experts", c.num_experts},
              {"experts_per_token", c.experts_per_token},
              {"vocab_tokens", c.vocab_tokens},
              {"context_tokens", c.context_tokens},
              {"end_tokens", EndTokens(c, tokenizer.get())},
              {"weight_format", WeightFormatName(model->layers.front().query.format)},
              {"identity", HexString(identity)}};
}

absl::StatusOr<json> Tokenize(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadText("--text-file", absl::GetFlag(FLAGS_text_file)));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(path));
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   tokenizer->Encode(text, absl::GetFlag(FLAGS_special)));
  return json{{"ids", ids}};
}

absl::StatusOr<json> Logits(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, ReadTokens());
  json rows = json::object();
  for (const std::string& text : absl::GetFlag(FLAGS_positions)) {
    size_t position = 0;
    if (!absl::SimpleAtoi(text, &position) || position >= tokens.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--positions has '", text, "'; wanted numbers below the ", tokens.size(), " tokens"));
    }
    rows[absl::StrCat(position)] = json::array();
  }
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  LocalRun run(*model, RunOptions(absl::GetFlag(FLAGS_float32)));
  double nll = 0;
  RETURN_IF_ERROR(run.AllLogits(tokens, [&](size_t first, TensorView logits) {
    for (size_t i = 0; i < logits.dims[0]; ++i) {
      const std::span<const float> row(logits.f32(i), logits.dims[1]);
      const size_t position = first + i;
      if (position + 1 < tokens.size()) nll += LogSumExp(row) - row[tokens[position + 1]];
      if (rows.contains(absl::StrCat(position))) {
        rows[absl::StrCat(position)] = std::vector<float>(row.begin(), row.end());
      }
    }
  }));
  const double count = static_cast<double>(tokens.size() - 1);
  return json{{"logits", rows}, {"prompt_nll_mean", count > 0 ? nll / count : 0.0}};
}

absl::StatusOr<json> Generate(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, ReadTokens());
  const bool float32 = absl::GetFlag(FLAGS_float32);
  ASSIGN_OR_RETURN(const CompressionOptions compression, TextCompression(float32));
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::LoadIfPresent(path));
  LocalRun::Options options = RunOptions(float32);
  options.end_tokens = EndTokens(model->config, tokenizer.get());
  LocalRun run(*model, options);
  const size_t max_tokens = absl::GetFlag(FLAGS_max_tokens);
  ASSIGN_OR_RETURN(auto prefilled, run.Prefill(tokens, compression, max_tokens));
  ASSIGN_OR_RETURN(const auto output, run.Generate(prefilled, max_tokens, /*stop_at_end=*/true));
  return json{{"tokens", output}};
}

// Always-kept and unscored positions get the layer's largest score plus one and its smallest, as in
// kvpress.
json HeadScores(const std::vector<std::vector<float>>& scores, size_t head, size_t prompt_tokens,
                const HeadBudget& budget) {
  if (scores.empty()) return json::array();
  float largest = -INFINITY;
  for (const auto& row : scores) {
    largest = std::max(largest, *std::max_element(row.begin(), row.end()));
  }
  std::vector<float> padded = scores[head];
  padded.resize(prompt_tokens, *std::min_element(padded.begin(), padded.end()));
  for (size_t i = 0; i < prompt_tokens; ++i) {
    const bool kept = i < budget.sinks || i + budget.recent_tokens >= prompt_tokens;
    if (kept) padded[i] = largest + 1;
  }
  return padded;
}

absl::StatusOr<json> Compress(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, ReadTokens());
  ASSIGN_OR_RETURN(const CompressionOptions compression, JsonCompression());
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  // In float32: what is compared here are scores.
  LocalRun run(*model, RunOptions(/*float32=*/true));
  ASSIGN_OR_RETURN(const auto prefilled, run.Prefill(tokens, compression, 1, /*with_scores=*/true));
  json layers = json::array();
  for (const Compressor::Result& result : prefilled.layers) {
    const HeadBudget budget =
        prefilled.plan.keeps_whole ? HeadBudget{} : prefilled.plan.budgets[result.compact.layer];
    json heads = json::array();
    double mass = 0;
    for (size_t h = 0; h < result.positions.size(); ++h) {
      heads.push_back({{"kept_positions", result.positions[h]},
                       {"scores", HeadScores(result.scores, h, tokens.size(), budget)},
                       {"retained_mass", result.compact.retained_mass[h]},
                       {"chosen_mass", result.compact.chosen_mass[h]}});
      mass += result.compact.retained_mass[h];
    }
    layers.push_back(
        {{"heads", heads}, {"retained_mass", mass / static_cast<double>(result.positions.size())}});
  }
  return json{{"layers", layers}};
}

absl::StatusOr<std::vector<TokenWindow>> Windows() {
  std::vector<TokenWindow> windows;
  for (const std::string& text : absl::GetFlag(FLAGS_windows)) {
    const std::pair<std::string, std::string> ends = absl::StrSplit(text, absl::MaxSplits(':', 1));
    TokenWindow& window = windows.emplace_back();
    if (!absl::SimpleAtoi(ends.first, &window.begin) ||
        !absl::SimpleAtoi(ends.second, &window.end)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--windows has '", text, "'; wanted BEGIN:END"));
    }
  }
  return windows;
}

absl::StatusOr<json> Attention(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, ReadTokens());
  ASSIGN_OR_RETURN(const std::vector<TokenWindow> windows, Windows());
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  LocalRun run(*model, RunOptions(absl::GetFlag(FLAGS_float32)));
  ASSIGN_OR_RETURN(const auto measured,
                   MeasureWindowAttention(run, tokens, windows,
                                          {.prefix_tokens = absl::GetFlag(FLAGS_prefix_tokens),
                                           .generated_from = absl::GetFlag(FLAGS_generated_from)}));
  json out = json::array();
  for (size_t w = 0; w < windows.size(); ++w) {
    out.push_back({{"begin", windows[w].begin},
                   {"end", windows[w].end},
                   {"voted", measured[w].voted},
                   {"attended", measured[w].attended}});
  }
  return json{{"windows", out}};
}

absl::StatusOr<json> Bench(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, ReadTokens());
  const bool float32 = absl::GetFlag(FLAGS_float32);
  ASSIGN_OR_RETURN(const CompressionOptions compression, TextCompression(float32));
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  LocalRun run(*model, RunOptions(float32));
  const size_t max_tokens = absl::GetFlag(FLAGS_max_tokens);
  ASSIGN_OR_RETURN(auto prefilled, run.Prefill(tokens, compression, max_tokens));
  const auto begin = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const auto output, run.Generate(prefilled, max_tokens, /*stop_at_end=*/false));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  // The first token comes out of prefill.
  const size_t num_decoded = std::max<size_t>(output.size(), 1) - 1;
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return json{{"prompt_tokens", tokens.size()},
              {"prefill_seconds", prefilled.prefill_seconds},
              {"compress_seconds", prefilled.compress_seconds},
              {"decode_tokens_per_second", static_cast<double>(num_decoded) / seconds},
              {"peak_rss_bytes", static_cast<int64_t>(usage.ru_maxrss) * 1024}};
}

absl::Status Sweep(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text,
                   ReadText("--cases-file", absl::GetFlag(FLAGS_cases_file)));
  std::istringstream cases(text);
  ASSIGN_OR_RETURN(const auto model, LoadTransformer(path));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(path));
  LocalRun::Options options = RunOptions(absl::GetFlag(FLAGS_float32));
  options.end_tokens = EndTokens(model->config, tokenizer.get());
  LocalRun run(*model, options);
  ASSIGN_OR_RETURN(const ChatTemplate chat_template, ChatTemplate::Load(path, *tokenizer));
  return SweepPolicies(run, *tokenizer, chat_template, cases, std::cout);
}

absl::Status CheckThreads() {
  constexpr size_t kMostThreads = 1024;  // as of the services
  const size_t num_threads = absl::GetFlag(FLAGS_threads);
  if (num_threads <= kMostThreads) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--threads is ", num_threads, "; wanted 0, one per processor, to ", kMostThreads));
}

absl::Status Print(const absl::StatusOr<json>& result) {
  RETURN_IF_ERROR(result.status());
  std::cout << result->dump(-1, ' ', false, json::error_handler_t::replace) << "\n";
  return absl::OkStatus();
}

absl::Status Run(const std::string& command, const std::string& path) {
  RETURN_IF_ERROR(CheckThreads());
  if (command == "model") return Print(Model(path));
  if (command == "tokenize") return Print(Tokenize(path));
  if (command == "logits") return Print(Logits(path));
  if (command == "generate") return Print(Generate(path));
  if (command == "compress") return Print(Compress(path));
  if (command == "attention") return Print(Attention(path));
  if (command == "bench") return Print(Bench(path));
  if (command == "sweep") return Sweep(path);
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown command '", command,
      "'; wanted model, tokenize, logits, generate, compress, attention, sweep or bench"));
}

int Main(int argc, char** argv) {
  const std::vector<char*> arguments = ParseCommandLine(kUsage, argc, argv);
  if (arguments.size() != 3) {
    std::cerr << kUsage << "\n";
    return 2;
  }
  if (const absl::Status status = Run(arguments[1], arguments[2]); !status.ok()) {
    std::cerr << "kvship-inspect: " << status.message() << "\n";
    return 1;
  }
  return OutputIsWritten("kvship-inspect") ? 0 : 1;
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) { return kvship::Main(argc, argv); }
