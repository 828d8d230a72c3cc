#include "tools/local_run.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/sampling.h"

namespace kvship {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A layer as one of several compressors asked for it.
LayerView ViewFor(const LayerNeeds& needs, LayerView layer) {
  const bool none = needs.num_window_queries() == 0;
  const size_t first = none ? 0 : needs.window_begin - layer.window_begin;
  layer.window_queries = layer.window_queries.Slice(1, first, needs.num_window_queries());
  layer.window_lse = layer.window_lse.Slice(1, first, needs.num_window_queries());
  layer.window_begin = needs.window_begin;
  return layer;
}

// What serves all of them.
absl::StatusOr<LayerNeeds> NeedsOfAll(const std::vector<std::unique_ptr<Compressor>>& compressors) {
  LayerNeeds all;
  for (const auto& compressor : compressors) {
    const LayerNeeds needs = compressor->needs();
    if (needs.num_window_queries() > 0) {
      const bool none = all.num_window_queries() == 0;
      all.window_begin = none ? needs.window_begin : std::min(all.window_begin, needs.window_begin);
      all.window_end = std::max(all.window_end, needs.window_end);
    }
    all.column_sums |= needs.column_sums;
    if (needs.future_tokens == 0) continue;
    if (all.future_tokens != 0 &&
        (all.future_tokens != needs.future_tokens || all.moments_begin != needs.moments_begin)) {
      return absl::UnimplementedError(
          "several settings of expected_attention in one run; wanted the same sinks and "
          "future_tokens");
    }
    all.future_tokens = needs.future_tokens;
    all.moments_begin = needs.moments_begin;
  }
  return all;
}

}  // namespace

LocalRun::LocalRun(const Transformer& model, const Options& options)
    : model_(model),
      options_(options),
      backend_(options.num_threads),
      prefill_(model, backend_,
               {.arithmetic = options.arithmetic, .block_tokens = options.block_tokens}),
      decode_(model, backend_, options.arithmetic) {}

absl::Status LocalRun::CheckTokens(const std::vector<int32_t>& tokens) const {
  if (tokens.empty()) return absl::InvalidArgumentError("tokens is empty; wanted at least one id");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= model_.config.vocab_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokens[", i, "] is ", tokens[i], "; wanted an id below ", model_.config.vocab_tokens));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<LocalRun::Prefilled> LocalRun::Reserve(const CompressionOptions& compression,
                                                      size_t prompt_tokens,
                                                      size_t max_tail_tokens) const {
  if (max_tail_tokens > model_.config.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens is ", max_tail_tokens,
                                                   "; wanted at most the model's context, ",
                                                   model_.config.context_tokens));
  }
  const KvShape shape = ShapeOf(model_.config);
  Prefilled out;
  ASSIGN_OR_RETURN(out.plan, MakePlan(compression, shape, prompt_tokens));
  const auto demands =
      SequenceCache::Demands(shape, out.plan, max_tail_tokens, options_.tail_format);
  ASSIGN_OR_RETURN(out.pool, KvPool::Create(KvPool::BytesFor(demands)));
  ASSIGN_OR_RETURN(out.cache, SequenceCache::Reserve(*out.pool, shape, out.plan, max_tail_tokens,
                                                     options_.tail_format));
  return out;
}

absl::StatusOr<std::vector<LocalRun::Prefilled>> LocalRun::PrefillForEach(
    const std::vector<int32_t>& tokens, const std::vector<CompressionOptions>& compressions,
    size_t max_tail_tokens, bool with_scores) {
  RETURN_IF_ERROR(CheckTokens(tokens));
  std::vector<Prefilled> all;
  std::vector<std::unique_ptr<Compressor>> compressors;
  for (const CompressionOptions& options : compressions) {
    const CompressionOptions compression = ForPrompt(options, tokens.size());
    ASSIGN_OR_RETURN(Prefilled out, Reserve(compression, tokens.size(), max_tail_tokens));
    ASSIGN_OR_RETURN(compressors.emplace_back(),
                     Compressor::Create(compression, ShapeOf(model_.config), out.plan));
    all.push_back(std::move(out));
  }
  ASSIGN_OR_RETURN(const LayerNeeds needs, NeedsOfAll(compressors));
  double compress_seconds = 0;
  const double begin = Seconds();
  PrefillRun run(prefill_, {{tokens, needs}});
  while (!run.done()) {
    ASSIGN_OR_RETURN(const PrefillRun::Event event, run.Step());
    if (event != PrefillRun::Event::kLayerDone) continue;
    for (size_t i = 0; i < all.size(); ++i) {
      const double before = Seconds();
      const LayerView view = ViewFor(compressors[i]->needs(), run.finished_layer());
      ASSIGN_OR_RETURN(Compressor::Result layer,
                       compressors[i]->Compress(backend_, view, with_scores));
      const double seconds = Seconds() - before;
      all[i].compress_seconds += seconds;
      compress_seconds += seconds;
      all[i].num_bytes += layer.compact.bytes.num_bytes();
      RETURN_IF_ERROR(all[i].cache->BeginLayer(layer.compact.layer, layer.compact.kept_tokens));
      RETURN_IF_ERROR(all[i].cache->WriteLayerBytes(0, layer.compact.bytes.bytes()));
      layer.compact.bytes = Buffer();
      all[i].layers.push_back(std::move(layer));
    }
  }
  std::vector<float> logits(model_.config.vocab_tokens);
  RETURN_IF_ERROR(run.Logits(0, tokens.size() - 1, TensorView(logits.data(), {1, logits.size()})));
  for (Prefilled& out : all) {
    out.logits = logits;
    out.prefill_seconds = Seconds() - begin - compress_seconds;
  }
  return all;
}

absl::StatusOr<LocalRun::Prefilled> LocalRun::Prefill(const std::vector<int32_t>& tokens,
                                                      const CompressionOptions& compression,
                                                      size_t max_tail_tokens, bool with_scores) {
  ASSIGN_OR_RETURN(std::vector<Prefilled> one,
                   PrefillForEach(tokens, {compression}, max_tail_tokens, with_scores));
  return std::move(one[0]);
}

absl::StatusOr<std::vector<int32_t>> LocalRun::Generate(Prefilled& prefilled, size_t max_tokens,
                                                        bool stop_at_end) {
  const std::vector<int32_t>& ends =
      options_.end_tokens.empty() ? model_.config.end_tokens : options_.end_tokens;
  std::vector<int32_t> output;
  std::span<const float> logits = prefilled.logits;
  while (output.size() < max_tokens) {
    ASSIGN_OR_RETURN(const OutputToken drawn, SampleToken(logits, {}, output.size(), 0));
    output.push_back(drawn.token);
    if (stop_at_end && std::find(ends.begin(), ends.end(), drawn.token) != ends.end()) break;
    if (output.size() == max_tokens) break;
    const DecodeEngine::Item item = {.token = drawn.token, .cache = prefilled.cache.get()};
    RETURN_IF_ERROR(decode_.Step({&item, 1}));
    logits = decode_.logits(0);
  }
  return output;
}

absl::Status LocalRun::VisitLayers(
    const std::vector<int32_t>& tokens, const LayerNeeds& needs,
    const std::function<absl::Status(Backend&, const LayerView&)>& visit) {
  RETURN_IF_ERROR(CheckTokens(tokens));
  PrefillRun run(prefill_, {{tokens, needs}});
  while (!run.done()) {
    ASSIGN_OR_RETURN(const PrefillRun::Event event, run.Step());
    if (event == PrefillRun::Event::kLayerDone) {
      RETURN_IF_ERROR(visit(backend_, run.finished_layer()));
    }
  }
  return absl::OkStatus();
}

absl::Status LocalRun::AllLogits(const std::vector<int32_t>& tokens,
                                 const std::function<void(size_t, TensorView)>& visit) {
  RETURN_IF_ERROR(CheckTokens(tokens));
  PrefillRun run(prefill_, {{tokens}}, /*all_logits=*/true);
  while (!run.done()) RETURN_IF_ERROR(run.Step().status());
  constexpr size_t kRows = 16;
  Array<float> memory(kRows * model_.config.vocab_tokens);
  for (size_t i = 0; i < tokens.size(); i += kRows) {
    const size_t rows = std::min(kRows, tokens.size() - i);
    const TensorView logits(memory.data(), {rows, model_.config.vocab_tokens});
    RETURN_IF_ERROR(run.Logits(0, i, logits));
    visit(i, logits);
  }
  return absl::OkStatus();
}

}  // namespace kvship
