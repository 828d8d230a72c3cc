#include "engine/prefill.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "engine/activations.h"
#include "engine/query_key_value.h"
#include "engine/rope_table.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace kvship {
namespace {

// Of one head's K or V in a block of the prefix cache.
size_t BlockHeadFloats(const ModelConfig& config) { return kPrefixBlockTokens * config.head_dim; }

size_t BlockLayerFloats(const ModelConfig& config) {
  return 2 * config.num_kv_heads * BlockHeadFloats(config);
}

// Of a layer's weights that a token is multiplied with, those of its experts.
double ExpertShare(const ModelConfig& config) {
  const auto experts = static_cast<double>(3 * config.experts_per_token * config.ffn_dim);
  const size_t heads = config.num_query_heads + config.num_kv_heads;
  return experts / (experts + static_cast<double>(2 * heads * config.head_dim));
}

}  // namespace

size_t PrefillEngine::PrefixBlockBytes(const ModelConfig& config) {
  return config.num_layers * BlockLayerFloats(config) * sizeof(float);
}

PrefillEngine::PrefillEngine(const Transformer& model, Backend& backend, Options options)
    : model_(model),
      backend_(backend),
      options_(options),
      prefix_cache_(PrefixBlockBytes(model.config), options.prefix_cache_bytes),
      feed_forward_(model, backend, ArithmeticFor(model, options.arithmetic)) {
  options_.arithmetic = ArithmeticFor(model, options.arithmetic);
}

absl::Status PrefillEngine::UnpackLayer(size_t layer) {
  if (unpacked_layer_ == layer) return absl::OkStatus();
  unpacked_layer_ = SIZE_MAX;
  const LayerWeights& w = model_.layers[layer];
  const std::array<WeightView, 3> qkv = {w.query, w.key, w.value};
  RETURN_IF_ERROR(UnpackWeights(backend_, qkv, options_.arithmetic, &qkv_));
  RETURN_IF_ERROR(UnpackWeights(backend_, {&w.output, 1}, options_.arithmetic, &output_));
  if (model_.config.has_experts()) {
    // In float32 always: a rounded logit would send rows to other experts.
    RETURN_IF_ERROR(UnpackWeights(backend_, {&w.router, 1}, Arithmetic::kFloat32, &router_));
  } else {
    RETURN_IF_ERROR(feed_forward_.Unpack(layer, 0));
  }
  unpacked_layer_ = layer;
  return absl::OkStatus();
}

PrefillRun::PrefillRun(PrefillEngine& engine, std::vector<PrefillPrompt> prompts, bool all_logits)
    : engine_(engine), all_logits_(all_logits) {
  const ModelConfig& config = engine.model().config;
  for (PrefillPrompt& prompt : prompts) AddPrompt(std::move(prompt));
  const size_t kv_bytes = config.num_kv_heads * num_tokens_ * config.head_dim * sizeof(float);
  residual_ = Buffer(num_rows_ * config.hidden_dim * sizeof(float));
  cos_sin_ = Buffer(num_rows_ * config.head_dim * sizeof(float));
  keys_ = Buffer(kv_bytes);
  values_ = Buffer(kv_bytes);
  if (config.has_experts()) mixture_.emplace(config, num_rows_);
}

void PrefillRun::AddPrompt(PrefillPrompt prompt) {
  const size_t num_tokens = prompt.tokens.size();
  const size_t most_reused = all_logits_ ? 0 : MostReused(num_tokens, prompt.needs);
  PrefixCache::Prefix prefix =
      engine_.prefix_cache_.Begin(prompt.tokens, prompt.cache_salt, most_reused);
  LayerObservation observation(engine_.model().config, num_tokens, prompt.needs);
  prompts_.push_back({std::move(prompt.tokens), num_tokens_, num_rows_, std::move(observation),
                      std::move(prefix)});
  num_tokens_ += num_tokens;
  num_rows_ += prompts_.back().num_rows();
}

size_t PrefillRun::BytesFor(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs) {
  const size_t row =
      config.hidden_dim + config.head_dim + 2 * config.num_kv_heads * config.head_dim;
  const size_t mixture_bytes = config.has_experts() ? MixtureRows::BytesFor(config, num_tokens) : 0;
  return num_tokens * row * sizeof(float) + LayerObservation::BytesFor(config, num_tokens, needs) +
         mixture_bytes;
}

double PrefillRun::fraction() const {
  // Within a layer, block by block; blocks near the end attend to more, which a progress line need
  // not know.
  const double num_rows = static_cast<double>(num_rows_);
  double of_layer = static_cast<double>(begin_) / num_rows;
  if (mixture_.has_value()) {
    const double share = ExpertShare(engine_.model().config);
    of_layer = (1 - share) * of_layer + share * mixture_->fraction();
  }
  const double layers = static_cast<double>(layer_) + of_layer;
  const double to_read = 1 - layers / static_cast<double>(engine_.model().config.num_layers);
  return 1 - to_read * num_rows / static_cast<double>(num_tokens_);
}

TensorView PrefillRun::Residual(size_t begin, size_t end) {
  const size_t hidden = engine_.model().config.hidden_dim;
  return TensorView(residual_.as<float>() + begin * hidden, {end - begin, hidden});
}

TensorView PrefillRun::Cached(Buffer& cache, const Prompt& prompt) {
  const ModelConfig& config = engine_.model().config;
  return TensorView(cache.as<float>(), {config.num_kv_heads, num_tokens_, config.head_dim})
      .Slice(1, prompt.begin, prompt.tokens.size());
}

std::vector<PrefillRun::Piece> PrefillRun::PiecesOf(size_t begin, size_t end) {
  std::vector<Piece> pieces;
  for (Prompt& prompt : prompts_) {
    const size_t first = std::max(begin, prompt.begin_row);
    const size_t last = std::min(end, prompt.begin_row + prompt.num_rows());
    if (first >= last) continue;
    const size_t position = prompt.prefix.reused_tokens() + first - prompt.begin_row;
    pieces.push_back({prompt, first - begin, last - first, position});
  }
  return pieces;
}

absl::StatusOr<PrefillRun::Event> PrefillRun::Step() {
  if (begin_ < num_rows_) {
    RETURN_IF_ERROR(BlockStep());
    if (begin_ == num_rows_ && mixture_.has_value()) mixture_->BeginSteps();
  } else {
    RETURN_IF_ERROR(mixture_->Step(engine_.feed_forward_, layer_, engine_.options().block_tokens,
                                   Residual(0, num_rows_)));
  }
  if (begin_ < num_rows_ || (mixture_.has_value() && !mixture_->done())) return Event::kBlockDone;
  FillBlocks();
  begin_ = 0;
  ++layer_;
  if (mixture_.has_value()) mixture_->Clear();
  for (Prompt& prompt : prompts_) {
    prompt.observation.Finish(engine_.backend());
    if (done()) engine_.prefix_cache_.Keep(prompt.prefix);
  }
  return Event::kLayerDone;
}

absl::Status PrefillRun::BlockStep() {
  const size_t begin = begin_;
  const size_t end = std::min(begin + engine_.options().block_tokens, num_rows_);
  const std::vector<Piece> pieces = PiecesOf(begin, end);
  if (layer_ == 0) RETURN_IF_ERROR(EmbedBlock(begin, pieces));
  if (begin == 0) {
    for (Prompt& prompt : prompts_) prompt.observation.Clear();
    FetchReused();
  }
  RETURN_IF_ERROR(engine_.UnpackLayer(layer_));
  RETURN_IF_ERROR(Block(begin, end, pieces));
  begin_ = end;
  return absl::OkStatus();
}

template <class Copy>
void PrefillRun::ForBlock(const Prompt& prompt, size_t block, const Copy& copy) {
  const ModelConfig& config = engine_.model().config;
  float* in_block = reinterpret_cast<float*>(prompt.prefix.blocks[block].get()) +
                    layer_ * BlockLayerFloats(config);
  for (Buffer* cache : {&keys_, &values_}) {
    const TensorView rows = Cached(*cache, prompt);
    for (size_t h = 0; h < config.num_kv_heads; ++h, in_block += BlockHeadFloats(config)) {
      copy(in_block, rows.f32(h, block * kPrefixBlockTokens));
    }
  }
}

void PrefillRun::FetchReused() {
  const size_t num_bytes = BlockHeadFloats(engine_.model().config) * sizeof(float);
  for (const Prompt& prompt : prompts_) {
    engine_.backend().threads().ParallelFor(prompt.prefix.num_reused, [&](size_t block) {
      ForBlock(prompt, block,
               [=](const float* kept, float* rows) { std::memcpy(rows, kept, num_bytes); });
    });
  }
}

void PrefillRun::FillBlocks() {
  const size_t num_bytes = BlockHeadFloats(engine_.model().config) * sizeof(float);
  for (const Prompt& prompt : prompts_) {
    const size_t num_found = prompt.prefix.num_found;
    const size_t num_filled = prompt.prefix.blocks.size() - num_found;
    engine_.backend().threads().ParallelFor(num_filled, [&](size_t i) {
      ForBlock(prompt, num_found + i,
               [=](float* kept, const float* rows) { std::memcpy(kept, rows, num_bytes); });
    });
  }
}

absl::Status PrefillRun::EmbedBlock(size_t begin, const std::vector<Piece>& pieces) {
  const ModelConfig& config = engine_.model().config;
  for (const Piece& piece : pieces) {
    const size_t row = begin + piece.row;
    RETURN_IF_ERROR(Embed(engine_.backend(), engine_.model().embedding,
                          std::span(piece.prompt.tokens).subspan(piece.position, piece.num_rows),
                          Residual(row, row + piece.num_rows)));
    for (size_t i = 0; i < piece.num_rows; ++i) {
      FillRopeRow(config, piece.position + i, cos_sin_.as<float>() + (row + i) * config.head_dim);
    }
  }
  return absl::OkStatus();
}

absl::Status PrefillRun::Block(size_t begin, size_t end, const std::vector<Piece>& pieces) {
  RETURN_IF_ERROR(QueryKeyValue(begin, end, pieces));
  const ModelConfig& config = engine_.model().config;
  const size_t num_heads = config.num_query_heads + 2 * config.num_kv_heads;
  const TensorView queries =
      TensorView(engine_.qkv_out_.as<float>(), {end - begin, num_heads, config.head_dim})
          .Slice(1, 0, config.num_query_heads);
  const TensorView attended =
      ActivationRows(engine_.attended_, end - begin, config.num_query_heads * config.head_dim);
  // Of the last layer nobody reads the residual stream but at each prompt's last position; its
  // queries matter where they vote.
  const bool all_are_read = all_logits_ || layer_ + 1 < config.num_layers;
  for (const Piece& piece : pieces) {
    if (!all_are_read && !piece.ends_prompt() &&
        !piece.prompt.observation.WantsAttention(piece.position, piece.position + piece.num_rows)) {
      continue;
    }
    RETURN_IF_ERROR(Attend(piece, queries.Slice(0, piece.row, piece.num_rows),
                           attended.Slice(0, piece.row, piece.num_rows)));
  }
  if (all_are_read) return AfterAttention(begin, end, attended);
  for (const Piece& piece : pieces) {
    if (!piece.ends_prompt()) continue;
    const size_t row = piece.row + piece.num_rows - 1;
    RETURN_IF_ERROR(AfterAttention(begin + row, begin + row + 1, attended.Slice(0, row, 1)));
  }
  return absl::OkStatus();
}

absl::Status PrefillRun::QueryKeyValue(size_t begin, size_t end, const std::vector<Piece>& pieces) {
  Backend& backend = engine_.backend();
  const ModelConfig& config = engine_.model().config;
  const LayerWeights& w = engine_.model().layers[layer_];
  const size_t rows = end - begin;
  const size_t d = config.head_dim;
  const size_t num_heads = config.num_query_heads + 2 * config.num_kv_heads;

  const TensorView normed = ActivationRows(engine_.normed_, rows, config.hidden_dim);
  RETURN_IF_ERROR(
      RmsNorm(backend, Residual(begin, end), w.attention_norm, config.norm_epsilon, normed));
  const TensorView qkv = ActivationRows(engine_.qkv_out_, rows, num_heads * d);
  RETURN_IF_ERROR(Product(backend, normed, engine_.qkv_, qkv));
  RETURN_IF_ERROR(FinishQueryKeyValue(backend, config, w, qkv));
  const TensorView queries = qkv.SplitLast(num_heads).Slice(1, 0, config.num_query_heads);
  for (const Piece& piece : pieces) {
    RETURN_IF_ERROR(piece.prompt.observation.AddBeforeRope(
        backend, piece.position, queries.Slice(0, piece.row, piece.num_rows)));
  }
  // Q and K lie side by side and turn together.
  const TensorView cos_sin(cos_sin_.as<float>() + begin * d, {rows, d});
  const size_t num_turned = config.num_query_heads + config.num_kv_heads;
  RETURN_IF_ERROR(Rope(backend, qkv.Slice(1, 0, num_turned * d).SplitLast(num_turned), cos_sin,
                       config.rope_pairs));
  for (const Piece& piece : pieces) {
    const TensorView keys = Cached(keys_, piece.prompt), values = Cached(values_, piece.prompt);
    for (size_t h = 0; h < config.num_kv_heads; ++h) {
      for (size_t m = 0; m < piece.num_rows; ++m) {
        const float* row = qkv.f32(piece.row + m);
        const size_t at = piece.position + m;
        std::memcpy(keys.f32(h, at), row + (config.num_query_heads + h) * d, d * sizeof(float));
        std::memcpy(values.f32(h, at), row + (num_turned + h) * d, d * sizeof(float));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PrefillRun::Attend(const Piece& piece, TensorView queries, TensorView attended) {
  LayerObservation& observation = piece.prompt.observation;
  PromptAttentionArgs attention;
  attention.q = queries;
  attention.keys = Cached(keys_, piece.prompt);
  attention.values = Cached(values_, piece.prompt);
  attention.first_position = piece.position;
  attention.arithmetic = engine_.options().arithmetic;
  attention.out = attended;
  const bool observed = observation.WantsAttention(piece.position, piece.position + piece.num_rows);
  if (observed) {
    attention.lse = ActivationRows(engine_.lse_, queries.dims[1], piece.num_rows);
  }
  RETURN_IF_ERROR(PromptAttention(engine_.backend(), attention));
  return observed ? observation.AddAttention(engine_.backend(), piece.position, queries,
                                             attention.lse, attention.keys)
                  : absl::OkStatus();
}

absl::Status PrefillRun::AfterAttention(size_t begin, size_t end, TensorView attended) {
  Backend& backend = engine_.backend();
  const ModelConfig& config = engine_.model().config;
  const LayerWeights& w = engine_.model().layers[layer_];
  const TensorView residual = Residual(begin, end);
  RETURN_IF_ERROR(Product(backend, attended, engine_.output_, residual, /*accumulate=*/true));
  const TensorView normed = mixture_.has_value()
                                ? mixture_->Normed(begin, end)
                                : ActivationRows(engine_.normed_, end - begin, config.hidden_dim);
  RETURN_IF_ERROR(RmsNorm(backend, residual, w.ffn_norm, config.norm_epsilon, normed));
  if (!mixture_.has_value()) return engine_.feed_forward_.Add(normed, residual);
  const TensorView logits = ActivationRows(engine_.router_logits_, end - begin, config.num_experts);
  RETURN_IF_ERROR(Product(backend, normed, engine_.router_, logits));
  mixture_->Choose(backend, logits, begin);
  return absl::OkStatus();
}

LayerView PrefillRun::finished_layer(size_t prompt) {
  Prompt& of = prompts_[prompt];
  LayerView view;
  view.layer = layer_ - 1;
  view.keys = Cached(keys_, of);
  view.values = Cached(values_, of);
  of.observation.ShowIn(&view);
  return view;
}

absl::Status PrefillRun::Logits(size_t prompt, size_t position, TensorView logits) {
  const Transformer& model = engine_.model();
  const Prompt& of = prompts_[prompt];
  const size_t rows = logits.dims[0], row = of.begin_row + position - of.prefix.reused_tokens();
  const TensorView normed = ActivationRows(engine_.normed_, rows, model.config.hidden_dim);
  RETURN_IF_ERROR(RmsNorm(engine_.backend(), Residual(row, row + rows), model.output_norm,
                          model.config.norm_epsilon, normed));
  return ProductPacked(engine_.backend(), normed, {&model.output, 1}, engine_.options().arithmetic,
                       logits);
}

}  // namespace kvship
