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

}  // namespace

LocalRun::LocalRun(const Transformer& model, Options options)
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

absl::StatusOr<LocalRun::Prefilled> LocalRun::Prefill(const std::vector<int32_t>& tokens,
                                                      const CompressionOptions& compression,
                                                      size_t max_tail_tokens, bool with_scores) {
  RETURN_IF_ERROR(CheckTokens(tokens));
  const KvShape shape = ShapeOf(model_.config);
  Prefilled out;
  ASSIGN_OR_RETURN(out.plan, MakePlan(compression, shape, tokens.size()));
  size_t pool_bytes = 4 * KvPool::kSlabBytes;
  for (const KvPool::Demand& demand :
       SequenceCache::Demands(shape, out.plan, max_tail_tokens, options_.tail_format)) {
    // Slabs are filled with whole pages.
    const size_t pages_per_slab = KvPool::kSlabBytes / demand.page_bytes;
    pool_bytes += (demand.num_pages / pages_per_slab + 1) * KvPool::kSlabBytes;
  }
  ASSIGN_OR_RETURN(out.pool, KvPool::Create(pool_bytes));
  ASSIGN_OR_RETURN(out.cache, SequenceCache::Reserve(*out.pool, shape, out.plan, max_tail_tokens,
                                                     options_.tail_format));
  ASSIGN_OR_RETURN(auto compressor, Compressor::Create(compression, shape, out.plan));

  const double begin = Seconds();
  PrefillRun run(prefill_, tokens, compressor->needs());
  while (!run.done()) {
    ASSIGN_OR_RETURN(const PrefillRun::Event event, run.Step());
    if (event != PrefillRun::Event::kLayerDone) continue;
    const double before = Seconds();
    ASSIGN_OR_RETURN(Compressor::Result layer,
                     compressor->Compress(backend_, run.finished_layer(), with_scores));
    out.compress_seconds += Seconds() - before;
    RETURN_IF_ERROR(out.cache->BeginLayer(layer.compact.layer, layer.compact.kept_tokens));
    RETURN_IF_ERROR(out.cache->WriteLayerBytes(0, layer.compact.bytes.bytes()));
    layer.compact.bytes = Buffer();
    out.layers.push_back(std::move(layer));
  }
  out.logits.resize(model_.config.vocab_tokens);
  RETURN_IF_ERROR(
      run.Logits(tokens.size() - 1, TensorView(out.logits.data(), {1, out.logits.size()})));
  out.prefill_seconds = Seconds() - begin - out.compress_seconds;
  return out;
}

absl::StatusOr<std::vector<int32_t>> LocalRun::Generate(Prefilled& prefilled, size_t max_tokens,
                                                        bool stop_at_end) {
  std::vector<int32_t> output;
  std::span<const float> logits = prefilled.logits;
  while (output.size() < max_tokens) {
    const int32_t token = SampleToken(logits, {}, output.size(), 0).token;
    output.push_back(token);
    const auto& ends = model_.config.end_tokens;
    if (stop_at_end && std::find(ends.begin(), ends.end(), token) != ends.end()) break;
    if (output.size() == max_tokens) break;
    const DecodeEngine::Item item = {.token = token, .cache = prefilled.cache.get()};
    RETURN_IF_ERROR(decode_.Step({&item, 1}));
    logits = decode_.logits(0);
  }
  return output;
}

absl::Status LocalRun::VisitLayers(
    const std::vector<int32_t>& tokens, const LayerNeeds& needs,
    const std::function<absl::Status(Backend&, const LayerView&)>& visit) {
  RETURN_IF_ERROR(CheckTokens(tokens));
  PrefillRun run(prefill_, tokens, needs);
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
  PrefillRun run(prefill_, tokens, {}, /*all_logits=*/true);
  while (!run.done()) RETURN_IF_ERROR(run.Step().status());
  constexpr size_t kRows = 16;
  Array<float> memory(kRows * model_.config.vocab_tokens);
  for (size_t i = 0; i < tokens.size(); i += kRows) {
    const size_t rows = std::min(kRows, tokens.size() - i);
    const TensorView logits(memory.data(), {rows, model_.config.vocab_tokens});
    RETURN_IF_ERROR(run.Logits(i, logits));
    visit(i, logits);
  }
  return absl::OkStatus();
}

}  // namespace kvship
