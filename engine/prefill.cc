#include "engine/prefill.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/status_macros.h"
#include "engine/activations.h"
#include "engine/query_key_norm.h"
#include "engine/rope_table.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/scores.h"

namespace kvship {

Arithmetic ArithmeticFor(const Transformer& model, Arithmetic wanted) {
  const WeightFormat format = model.layers.front().query.format;
  const bool floats =
      format == WeightFormat::kF32 || format == WeightFormat::kF16 || format == WeightFormat::kBf16;
  return floats ? Arithmetic::kFloat32 : wanted;
}

KvShape ShapeOf(const ModelConfig& config) {
  return {.num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .num_query_heads = config.num_query_heads,
          .head_dim = config.head_dim};
}

absl::Status PrefillEngine::UnpackLayer(size_t layer) {
  if (unpacked_layer_ == layer) return absl::OkStatus();
  unpacked_layer_ = SIZE_MAX;
  const LayerWeights& w = model_.layers[layer];
  const std::array<WeightView, 3> qkv = {w.query, w.key, w.value};
  const std::array<WeightView, 2> gate_up = {w.gate, w.up};
  RETURN_IF_ERROR(UnpackWeights(backend_, qkv, options_.arithmetic, &qkv_));
  RETURN_IF_ERROR(UnpackWeights(backend_, {&w.output, 1}, options_.arithmetic, &output_));
  RETURN_IF_ERROR(UnpackWeights(backend_, gate_up, options_.arithmetic, &gate_up_));
  RETURN_IF_ERROR(UnpackWeights(backend_, {&w.down, 1}, options_.arithmetic, &down_));
  unpacked_layer_ = layer;
  return absl::OkStatus();
}

PrefillRun::PrefillRun(PrefillEngine& engine, std::vector<int32_t> tokens, LayerNeeds needs,
                       bool all_logits)
    : engine_(engine), tokens_(std::move(tokens)), needs_(needs), all_logits_(all_logits) {
  const ModelConfig& config = engine.model().config;
  const size_t kv_bytes = config.num_kv_heads * tokens_.size() * config.head_dim * sizeof(float);
  const size_t window_rows = config.num_query_heads * needs.num_window_queries();
  residual_ = Buffer(tokens_.size() * config.hidden_dim * sizeof(float));
  cos_sin_ = Buffer(tokens_.size() * config.head_dim * sizeof(float));
  keys_ = Buffer(kv_bytes);
  values_ = Buffer(kv_bytes);
  window_queries_ = Buffer(window_rows * config.head_dim * sizeof(float));
  window_lse_ = Buffer(window_rows * sizeof(float));
  if (needs.column_sums) {
    column_sums_ = Buffer(config.num_query_heads * tokens_.size() * sizeof(float));
  }
  if (needs.future_tokens > 0) {
    const size_t query_bytes = config.num_query_heads * config.head_dim * sizeof(float);
    moments_ = QueryMoments(config, tokens_.size(), needs.future_tokens);
    query_mean_ = Buffer(query_bytes);
    query_covariance_ = Buffer(query_bytes * config.head_dim);
  }
}

size_t PrefillRun::num_bytes() const {
  return residual_.num_bytes() + cos_sin_.num_bytes() + keys_.num_bytes() + values_.num_bytes() +
         window_queries_.num_bytes() + window_lse_.num_bytes() + column_sums_.num_bytes() +
         moments_.num_bytes() + query_mean_.num_bytes() + query_covariance_.num_bytes();
}

double PrefillRun::fraction() const {
  // Within a layer, block by block; blocks near the end attend to more, which a progress line need
  // not know.
  const double layers = static_cast<double>(layer_) +
                        static_cast<double>(position_) / static_cast<double>(tokens_.size());
  return layers / static_cast<double>(engine_.model().config.num_layers);
}

TensorView PrefillRun::Residual(size_t begin, size_t end) {
  const size_t hidden = engine_.model().config.hidden_dim;
  return TensorView(residual_.as<float>() + begin * hidden, {end - begin, hidden});
}

absl::StatusOr<PrefillRun::Event> PrefillRun::Step() {
  const ModelConfig& config = engine_.model().config;
  const size_t begin = position_;
  const size_t end = std::min(begin + engine_.options().block_tokens, tokens_.size());
  if (layer_ == 0) {
    RETURN_IF_ERROR(Embed(engine_.backend(), engine_.model().embedding,
                          std::span(tokens_).subspan(begin, end - begin), Residual(begin, end)));
    for (size_t i = begin; i < end; ++i) {
      FillRopeRow(config, i, cos_sin_.as<float>() + i * config.head_dim);
    }
  }
  if (begin == 0) {
    std::fill_n(column_sums_.as<float>(), column_sums_.num_bytes() / sizeof(float), 0.0f);
    moments_.Clear();
  }
  RETURN_IF_ERROR(engine_.UnpackLayer(layer_));
  RETURN_IF_ERROR(Block(begin, end));
  position_ = end;
  if (end < tokens_.size()) return Event::kBlockDone;
  position_ = 0;
  ++layer_;
  if (needs_.future_tokens > 0) {
    const LayerView done = finished_layer();
    moments_.Turned(engine_.backend(), done.query_mean, done.query_covariance);
  }
  return Event::kLayerDone;
}

absl::Status PrefillRun::Block(size_t begin, size_t end) {
  RETURN_IF_ERROR(QueryKeyValue(begin, end));
  // Of the last layer nobody reads the residual stream but at the positions whose logits are
  // wanted; its queries matter where they vote.
  const ModelConfig& config = engine_.model().config;
  const bool last_layer = layer_ + 1 == config.num_layers;
  const bool is_read = !last_layer || all_logits_ || end == tokens_.size();
  if (!is_read && !ObservesAttention(begin, end)) return absl::OkStatus();
  const TensorView attended =
      ActivationRows(engine_.attended_, end - begin, config.num_query_heads * config.head_dim);
  RETURN_IF_ERROR(Attend(begin, end, attended));
  return is_read ? FeedForward(Residual(begin, end), attended) : absl::OkStatus();
}

absl::Status PrefillRun::QueryKeyValue(size_t begin, size_t end) {
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
  RETURN_IF_ERROR(NormQueriesAndKeys(backend, config, w, qkv));
  RETURN_IF_ERROR(
      ObserveQueries(begin, end, qkv.SplitLast(num_heads).Slice(1, 0, config.num_query_heads)));
  // Q and K lie side by side and turn together.
  const TensorView cos_sin(cos_sin_.as<float>() + begin * d, {rows, d});
  const size_t num_turned = config.num_query_heads + config.num_kv_heads;
  RETURN_IF_ERROR(Rope(backend, qkv.Slice(1, 0, num_turned * d).SplitLast(num_turned), cos_sin,
                       config.rope_pairs));
  for (size_t h = 0; h < config.num_kv_heads; ++h) {
    float* keys = keys_.as<float>() + (h * tokens_.size() + begin) * d;
    float* values = values_.as<float>() + (h * tokens_.size() + begin) * d;
    for (size_t m = 0; m < rows; ++m) {
      const float* row = qkv.f32(m);
      std::memcpy(keys + m * d, row + (config.num_query_heads + h) * d, d * sizeof(float));
      std::memcpy(values + m * d, row + (num_turned + h) * d, d * sizeof(float));
    }
  }
  return absl::OkStatus();
}

absl::Status PrefillRun::Attend(size_t begin, size_t end, TensorView attended) {
  const ModelConfig& config = engine_.model().config;
  const size_t rows = end - begin;
  const size_t d = config.head_dim;
  const size_t num_heads = config.num_query_heads + 2 * config.num_kv_heads;
  PromptAttentionArgs attention;
  attention.q = TensorView(engine_.qkv_out_.as<float>(), {rows, num_heads, d})
                    .Slice(1, 0, config.num_query_heads);
  attention.keys = TensorView(keys_.as<float>(), {config.num_kv_heads, tokens_.size(), d});
  attention.values = TensorView(values_.as<float>(), {config.num_kv_heads, tokens_.size(), d});
  attention.first_position = begin;
  attention.arithmetic = engine_.options().arithmetic;
  attention.out = attended;
  const bool observed = ObservesAttention(begin, end);
  if (observed) attention.lse = ActivationRows(engine_.lse_, config.num_query_heads, rows);
  RETURN_IF_ERROR(PromptAttention(engine_.backend(), attention));
  return observed ? ObserveAttention(begin, end, attention.q, attention.lse) : absl::OkStatus();
}

absl::Status PrefillRun::FeedForward(TensorView residual, TensorView attended) {
  Backend& backend = engine_.backend();
  const ModelConfig& config = engine_.model().config;
  const LayerWeights& w = engine_.model().layers[layer_];
  const size_t rows = residual.dims[0];
  RETURN_IF_ERROR(Product(backend, attended, engine_.output_, residual, /*accumulate=*/true));
  const TensorView normed = ActivationRows(engine_.normed_, rows, config.hidden_dim);
  RETURN_IF_ERROR(RmsNorm(backend, residual, w.ffn_norm, config.norm_epsilon, normed));
  const TensorView gates = ActivationRows(engine_.gates_, rows, 2 * config.ffn_dim);
  RETURN_IF_ERROR(Product(backend, normed, engine_.gate_up_, gates));
  const TensorView gated = ActivationRows(engine_.gated_, rows, config.ffn_dim);
  RETURN_IF_ERROR(SiluMul(backend, gates, gated));
  return Product(backend, gated, engine_.down_, residual, /*accumulate=*/true);
}

absl::Status PrefillRun::ObserveQueries(size_t begin, size_t end, TensorView queries) {
  if (needs_.future_tokens == 0 || end <= needs_.moments_begin) return absl::OkStatus();
  const size_t first = std::max(begin, needs_.moments_begin);
  return moments_.Add(engine_.backend(), queries.Slice(0, first - begin, end - first));
}

absl::Status PrefillRun::ObserveAttention(size_t begin, size_t end, TensorView queries,
                                          TensorView lse) {
  KeepWindowQueries(begin, end, queries, lse);
  if (!needs_.column_sums) return absl::OkStatus();
  const ModelConfig& config = engine_.model().config;
  WindowVotesArgs votes;
  votes.q = queries.Transposed(0, 1);
  votes.keys =
      TensorView(keys_.as<float>(), {config.num_kv_heads, tokens_.size(), config.head_dim});
  votes.lse = lse;
  votes.first_position = begin;
  votes.accumulate = true;
  // Of the keys seen so far.
  votes.votes = TensorView(column_sums_.as<float>(), {config.num_query_heads, tokens_.size()})
                    .Slice(1, 0, end);
  return WindowVotes(engine_.backend(), votes);
}

void PrefillRun::KeepWindowQueries(size_t begin, size_t end, TensorView queries, TensorView lse) {
  const ModelConfig& config = engine_.model().config;
  const size_t window = needs_.num_window_queries();
  const size_t first = std::max(begin, needs_.window_begin);
  const size_t last = std::min(end, needs_.window_end);
  for (size_t h = 0; h < config.num_query_heads; ++h) {
    for (size_t i = first; i < last; ++i) {
      const size_t slot = h * window + i - needs_.window_begin;
      std::memcpy(window_queries_.as<float>() + slot * config.head_dim, queries.f32(i - begin, h),
                  config.head_dim * sizeof(float));
      window_lse_.as<float>()[slot] = lse.f32(h)[i - begin];
    }
  }
}

LayerView PrefillRun::finished_layer() {
  const ModelConfig& config = engine_.model().config;
  const size_t window = needs_.num_window_queries();
  const size_t d = config.head_dim;
  LayerView view;
  view.layer = layer_ - 1;
  view.keys = TensorView(keys_.as<float>(), {config.num_kv_heads, tokens_.size(), d});
  view.values = TensorView(values_.as<float>(), {config.num_kv_heads, tokens_.size(), d});
  view.window_queries =
      TensorView(window_queries_.as<float>(), {config.num_query_heads, window, d});
  view.window_lse = TensorView(window_lse_.as<float>(), {config.num_query_heads, window});
  view.window_begin = needs_.window_begin;
  if (needs_.column_sums) {
    view.column_sums =
        TensorView(column_sums_.as<float>(), {config.num_query_heads, tokens_.size()});
  }
  if (needs_.future_tokens > 0) {
    view.query_mean = TensorView(query_mean_.as<float>(), {config.num_query_heads, d});
    view.query_covariance =
        TensorView(query_covariance_.as<float>(), {config.num_query_heads, d, d});
  }
  return view;
}

absl::Status PrefillRun::Logits(size_t position, TensorView logits) {
  const Transformer& model = engine_.model();
  const size_t rows = logits.dims[0];
  const TensorView normed = ActivationRows(engine_.normed_, rows, model.config.hidden_dim);
  RETURN_IF_ERROR(RmsNorm(engine_.backend(), Residual(position, position + rows), model.output_norm,
                          model.config.norm_epsilon, normed));
  return ProductPacked(engine_.backend(), normed, {&model.output, 1}, engine_.options().arithmetic,
                       logits);
}

}  // namespace kvship
