#include "engine/decode.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/activations.h"
#include "engine/query_key_value.h"
#include "engine/rope_table.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/product.h"

namespace kvship {

absl::Status DecodeEngine::Step(std::span<const Item> items) {
  const ModelConfig& config = model_.config;
  const size_t batch = items.size();
  std::vector<int32_t> tokens;
  const TensorView cos_sin = ActivationRows(cos_sin_, batch, config.head_dim);
  for (size_t b = 0; b < batch; ++b) {
    const SequenceCache& cache = *items[b].cache;
    if (cache.num_tail_tokens() == cache.max_tail_tokens()) {
      return absl::FailedPreconditionError(absl::StrCat("the tail of sequence ", b, " is full at ",
                                                        cache.max_tail_tokens(), " tokens"));
    }
    tokens.push_back(items[b].token);
    FillRopeRow(config, cache.next_position(), cos_sin.f32(b));
  }
  RETURN_IF_ERROR(Embed(backend_, model_.embedding, tokens,
                        ActivationRows(residual_, batch, config.hidden_dim)));
  for (size_t layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(Layer(layer, items));
  }
  const TensorView normed = ActivationRows(normed_, batch, config.hidden_dim);
  RETURN_IF_ERROR(RmsNorm(backend_, ActivationRows(residual_, batch, config.hidden_dim),
                          model_.output_norm, config.norm_epsilon, normed));
  RETURN_IF_ERROR(ProductPacked(backend_, normed, {&model_.output, 1}, arithmetic_,
                                ActivationRows(logits_, batch, config.vocab_tokens)));
  drawn_.resize(batch);
  backend_.threads().ParallelFor(batch, [&](size_t i) {
    if (!items[i].wants_logits) drawn_[i] = DrawToken(logits(i), items[i].draw);
  });
  for (const Item& item : items) item.cache->AdvanceTail();
  return absl::OkStatus();
}

absl::Status DecodeEngine::Attend(size_t layer, std::span<const Item> items, TensorView qkv) {
  const ModelConfig& config = model_.config;
  const size_t batch = items.size();
  const size_t d = config.head_dim;
  const size_t num_heads = config.num_query_heads + 2 * config.num_kv_heads;
  heads_.clear();
  num_heads_.clear();
  prefix_formats_.clear();
  tail_formats_.clear();
  for (size_t b = 0; b < batch; ++b) {
    SequenceCache& cache = *items[b].cache;
    const size_t slot = cache.num_tail_tokens();
    for (size_t h = 0; h < config.num_kv_heads; ++h) {
      const float* key = qkv.f32(b) + (config.num_query_heads + h) * d;
      WritePageSlot(cache.tail_format(), d, slot % kPageTokens, key, key + config.num_kv_heads * d,
                    cache.tail_page(layer, h, slot));
    }
    cache.AppendPagedHeads(layer, slot + 1, &heads_);
    num_heads_.push_back(cache.plan().num_heads);
    prefix_formats_.push_back(cache.plan().format);
    tail_formats_.push_back(cache.tail_format());
  }
  PagedAttentionArgs args;
  args.q = TensorView(qkv.f32(), {batch, num_heads, d}).Slice(1, 0, config.num_query_heads);
  args.heads = heads_;
  args.num_heads = num_heads_;
  args.prefix_formats = prefix_formats_;
  args.tail_formats = tail_formats_;
  args.out = ActivationRows(attended_, batch, config.num_query_heads * d);
  return PagedAttention(backend_, args);
}

absl::Status DecodeEngine::Layer(size_t layer, std::span<const Item> items) {
  const ModelConfig& config = model_.config;
  const LayerWeights& w = model_.layers[layer];
  const size_t batch = items.size();
  const size_t num_turned = config.num_query_heads + config.num_kv_heads;
  const size_t num_heads = num_turned + config.num_kv_heads;
  const TensorView residual = ActivationRows(residual_, batch, config.hidden_dim);
  const TensorView normed = ActivationRows(normed_, batch, config.hidden_dim);
  const std::array<WeightView, 3> qkv_weights = {w.query, w.key, w.value};

  RETURN_IF_ERROR(RmsNorm(backend_, residual, w.attention_norm, config.norm_epsilon, normed));
  const TensorView qkv = ActivationRows(qkv_, batch, num_heads * config.head_dim);
  RETURN_IF_ERROR(ProductPacked(backend_, normed, qkv_weights, arithmetic_, qkv));
  RETURN_IF_ERROR(FinishQueryKeyValue(backend_, config, w, qkv));
  RETURN_IF_ERROR(Rope(backend_,
                       qkv.Slice(1, 0, num_turned * config.head_dim).SplitLast(num_turned),
                       ActivationRows(cos_sin_, batch, config.head_dim), config.rope_pairs));
  RETURN_IF_ERROR(Attend(layer, items, qkv));
  RETURN_IF_ERROR(ProductPacked(
      backend_, ActivationRows(attended_, batch, config.num_query_heads * config.head_dim),
      {&w.output, 1}, arithmetic_, residual, /*accumulate=*/true));

  RETURN_IF_ERROR(RmsNorm(backend_, residual, w.ffn_norm, config.norm_epsilon, normed));
  return FeedForward(w, normed, residual);
}

absl::Status DecodeEngine::FeedForward(const LayerWeights& w, TensorView x, TensorView residual) {
  const ModelConfig& config = model_.config;
  if (!config.has_experts()) return Expert(w.experts.front(), x, residual, /*accumulate=*/true);
  const TensorView logits = ActivationRows(router_logits_, x.dims[0], config.num_experts);
  RETURN_IF_ERROR(ProductPacked(backend_, x, {&w.router, 1}, Arithmetic::kFloat32, logits));
  routing_.Clear();
  routing_.Choose(backend_, logits, 0);
  for (std::span<const RoutedRow> left = routing_.ByExpert(); !left.empty();) {
    const std::span<const RoutedRow> rows = RowsOfFirstExpert(left, left.size());
    left = left.subspan(rows.size());
    const TensorView gathered = ActivationRows(gathered_, rows.size(), config.hidden_dim);
    GatherRows(backend_, x, rows, gathered);
    const TensorView out = ActivationRows(expert_out_, rows.size(), config.hidden_dim);
    RETURN_IF_ERROR(Expert(w.experts[rows.front().expert], gathered, out, /*accumulate=*/false));
    AddRows(backend_, out, rows, residual);
  }
  return absl::OkStatus();
}

absl::Status DecodeEngine::Expert(const FeedForwardWeights& w, TensorView x, TensorView out,
                                  bool accumulate) {
  const size_t rows = x.dims[0], f = model_.config.ffn_dim;
  const std::array<WeightView, 2> gate_up = {w.gate, w.up};
  const TensorView gates = ActivationRows(gates_, rows, 2 * f);
  RETURN_IF_ERROR(ProductPacked(backend_, x, gate_up, arithmetic_, gates));
  const TensorView gated = ActivationRows(gated_, rows, f);
  RETURN_IF_ERROR(SiluMul(backend_, gates, gated));
  return ProductPacked(backend_, gated, {&w.down, 1}, arithmetic_, out, accumulate);
}

}  // namespace kvship
