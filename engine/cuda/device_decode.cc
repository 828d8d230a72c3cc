#include "engine/cuda/device_decode.h"

#include "base/out_of_memory.h"
#include "base/status_macros.h"
#include "kernels/cuda/decode_step.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rope_table.h"
#include "kernels/cuda/token_draw.h"

namespace kvship::cuda {
namespace {

// That a cache can be beside one of `plan`.
absl::Status CheckCache(const SequenceCache& cache, const KvPlan& plan, PageFormat tail_format) {
  const PageFormat format = cache.plan().format;
  const size_t num_heads = cache.plan().num_heads;
  if (format == plan.format && format != PageFormat::kF32 && num_heads == plan.num_heads &&
      cache.tail_format() == tail_format) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("a cache of ", num_heads, " heads in ", PageFormatName(format),
                   " with a tail in ", PageFormatName(cache.tail_format()), " beside one of ",
                   plan.num_heads, " heads in ", PageFormatName(plan.format),
                   ": on the GPU wanted as many heads and the same format, not f32, with tails in ",
                   PageFormatName(tail_format)));
}

template <class T>
absl::Status CopyTo(const DeviceBuffer& to, const std::vector<T>& from, cudaStream_t stream) {
  return CudaStatus(cudaMemcpyAsync(to.data(), from.data(), from.size() * sizeof(T),
                                    cudaMemcpyHostToDevice, stream),
                    "copy to the device");
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceDecodeEngine>> DeviceDecodeEngine::Create(
    const DeviceTransformer& model, cudaStream_t stream, size_t max_sequences, size_t pool_bytes) {
  const ModelConfig& config = model.config();
  const size_t most_sequences = kMostPagedHeads / config.num_query_heads;
  if (max_sequences < 1 || max_sequences > most_sequences) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of up to ", max_sequences, ": wanted 1 to ", most_sequences));
  }
  std::unique_ptr<DeviceDecodeEngine> engine(new DeviceDecodeEngine(model, stream, max_sequences));
  ASSIGN_OR_RETURN(engine->capture_, Stream::CreateBesideDefault());
  ASSIGN_OR_RETURN(engine->products_, Products::Create());
  const size_t b = max_sequences;
  const size_t new_pages = config.num_layers * b * config.num_kv_heads;
  const size_t most_heads = config.num_layers * b * config.num_query_heads;
  const size_t row = b * kElementBytes;
  engine->most_split_rows_ = MostSplitRows(config, b, pool_bytes);
  using Self = DeviceDecodeEngine;
  const BufferSizes<Self> buffers = {
      {&Self::heads_, most_heads * sizeof(PagedHead)},
      {&Self::first_split_, (most_heads + config.num_layers) * sizeof(uint32_t)},
      {&Self::workspace_, engine->most_split_rows_ * SplitRowBytes(config.head_dim)},
      {&Self::new_pages_, new_pages * sizeof(std::byte*)},
      {&Self::slots_, b * sizeof(int32_t)},
      {&Self::positions_, b * sizeof(int32_t)},
      {&Self::tokens_, b * sizeof(int32_t)},
      {&Self::draws_, b * sizeof(TokenDraw)},
      {&Self::cos_sin_, b * config.head_dim * sizeof(float)},
      {&Self::residual_, row * config.hidden_dim},
      {&Self::normed_, row * config.hidden_dim},
      {&Self::qkv_, row * NumHeads(config) * config.head_dim},
      {&Self::attended_, row * config.num_query_heads * config.head_dim},
      {&Self::gate_up_, config.has_experts() ? 0 : row * 2 * config.ffn_dim},
      {&Self::gated_, config.has_experts() ? 0 : row * config.ffn_dim},
      {&Self::logits_, b * config.vocab_tokens * sizeof(float)}};
  RETURN_IF_ERROR(CreateBuffers(buffers, *engine));
  if (config.has_experts()) {
    ASSIGN_OR_RETURN(engine->mixture_, DeviceMixture::Create(model, *engine->products_,
                                                             DeviceMixture::Use::kDecode, b));
  }
  return engine;
}

absl::Status DeviceDecodeEngine::SetBatch(std::span<const Item> items) {
  if (items.empty() || items.size() > max_sequences_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of ", items.size(), ": wanted 1 to ", max_sequences_));
  }
  const KvPlan& plan = items.front().cache->plan();
  for (const Item& item : items) {
    RETURN_IF_ERROR(CheckCache(*item.cache, plan, PageFormatOf(model_.dtype())));
  }
  batch_ = items.size();
  prefix_format_ = plan.format;
  num_heads_ = plan.num_heads;
  const ModelConfig& config = model_.config();
  paged_.clear();
  for (size_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Item& item : items) {
      item.cache->AppendPagedHeads(layer, item.cache->max_tail_tokens(), &paged_);
    }
  }
  ASSIGN_OR_RETURN(const StepSplits splits,
                   NumberSplits(paged_, config.num_layers, config.num_query_heads / num_heads_,
                                most_split_rows_));
  num_splits_ = splits.num_splits;
  return CopyTables(items, splits.first_split);
}

absl::Status DeviceDecodeEngine::SetTokens(std::span<const int32_t> tokens) {
  given_tokens_.assign(tokens.begin(), tokens.end());
  return CudaStatus(cudaMemcpyAsync(tokens_.data(), given_tokens_.data(), tokens.size_bytes(),
                                    cudaMemcpyHostToDevice, stream_),
                    "tokens");
}

absl::Status DeviceDecodeEngine::CopyTables(std::span<const Item> items,
                                            const std::vector<uint32_t>& first_split) {
  size_t num_pages = 0;
  for (const kvship::PagedHead& head : paged_) {
    num_pages += head.prefix_pages.size() + head.tail_pages.size();
  }
  if (num_pages * sizeof(std::byte*) > page_table_.num_bytes()) {
    ASSIGN_OR_RETURN(page_table_, DeviceBuffer::Create(num_pages * sizeof(std::byte*)));
  }
  const std::byte* const* table = page_table_.as<const std::byte*>();
  std::vector<const std::byte*>& pages = host_pages_;
  pages.clear();
  host_heads_.clear();
  for (size_t i = 0; i < paged_.size(); ++i) {
    const kvship::PagedHead& from = paged_[i];
    const SequenceCache& cache = *items[i / num_heads_ % items.size()].cache;
    PagedHead& head = host_heads_.emplace_back();
    head.prefix_pages = table + pages.size();
    pages.insert(pages.end(), from.prefix_pages.begin(), from.prefix_pages.end());
    head.tail_pages = table + pages.size();
    pages.insert(pages.end(), from.tail_pages.begin(), from.tail_pages.end());
    head.num_prefix_tokens = static_cast<uint32_t>(from.num_prefix_tokens);
    head.num_tail_tokens = static_cast<uint32_t>(cache.num_tail_tokens());
  }
  std::vector<int32_t> tokens, positions;
  std::vector<TokenDraw> draws;
  for (const Item& item : items) {
    tokens.push_back(item.token);
    draws.push_back(item.draw);
    positions.push_back(static_cast<int32_t>(item.cache->next_position()) - 1);
  }
  RETURN_IF_ERROR(CopyTo(page_table_, pages, stream_));
  RETURN_IF_ERROR(CopyTo(heads_, host_heads_, stream_));
  RETURN_IF_ERROR(CopyTo(first_split_, first_split, stream_));
  RETURN_IF_ERROR(CopyTo(tokens_, tokens, stream_));
  RETURN_IF_ERROR(CopyTo(draws_, draws, stream_));
  RETURN_IF_ERROR(CopyTo(positions_, positions, stream_));
  return CudaStatus(cudaStreamSynchronize(stream_), "copy of page tables");
}

absl::Status DeviceDecodeEngine::Step() {
  const Shape shape(batch_, num_splits_, prefix_format_, num_heads_);
  cudaGraphExec_t graph = graphs_.Find(shape);
  if (graph == nullptr) {
    ASSIGN_OR_RETURN(graph, Capture());
    graphs_.Add(shape, graph);  // none is running: the shape is SetBatch's, which has waited
  }
  return CudaStatus(cudaGraphLaunch(graph, stream_), "decode step");
}

absl::StatusOr<cudaGraphExec_t> DeviceDecodeEngine::Capture() {
  RETURN_IF_ERROR(
      CudaStatus(cudaStreamBeginCapture(capture_.get(), cudaStreamCaptureModeThreadLocal),
                 "capture of a step"));
  // Without host memory for a plan the capture has to end too, or none could begin again.
  absl::Status status = UnlessOutOfMemory([this] { return EnqueueStep(); });
  cudaGraph_t graph = nullptr;
  status.Update(CudaStatus(cudaStreamEndCapture(capture_.get(), &graph), "capture of a step"));
  cudaGraphExec_t executable = nullptr;
  if (status.ok()) {
    status = CudaStatus(cudaGraphInstantiate(&executable, graph, 0), "graph of a step");
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  RETURN_IF_ERROR(status);
  return executable;
}

PagedAttentionArgs DeviceDecodeEngine::Attention(size_t layer) const {
  const ModelConfig& config = model_.config();
  return {.q = qkv_.data(),
          .heads = heads_.as<PagedHead>() + layer * batch_ * num_heads_,
          .first_split = first_split_.as<uint32_t>() + layer * (batch_ * num_heads_ + 1),
          .out = attended_.data(),
          .workspace = workspace_.data(),
          .dtype = model_.dtype(),
          .prefix_format = prefix_format_,
          .num_sequences = batch_,
          .num_query_heads = config.num_query_heads,
          .num_kv_heads = num_heads_,
          .head_dim = config.head_dim,
          .q_row_stride = NumHeads(config) * config.head_dim,
          .num_splits = num_splits_};
}

absl::Status DeviceDecodeEngine::Multiply(ProductArgs args) {
  args.dtype = args.out_dtype = model_.dtype();
  args.num_tokens = batch_;
  return products_->Run(capture_.get(), args);
}

absl::Status DeviceDecodeEngine::Norm(const std::byte* weight) {
  return RmsNorm(capture_.get(), {.x = residual_.data(),
                                  .weight = weight,
                                  .out = normed_.data(),
                                  .dtype = model_.dtype(),
                                  .num_tokens = batch_,
                                  .width = model_.config().hidden_dim,
                                  .epsilon = model_.config().norm_epsilon});
}

absl::Status DeviceDecodeEngine::EnqueueStep() {
  const ModelConfig& config = model_.config();
  RETURN_IF_ERROR(AdvanceTails(capture_.get(), {.heads = heads_.as<PagedHead>(),
                                                .pages = new_pages_.as<std::byte*>(),
                                                .slots = slots_.as<int32_t>(),
                                                .positions = positions_.as<int32_t>(),
                                                .num_layers = config.num_layers,
                                                .num_sequences = batch_,
                                                .num_heads = num_heads_,
                                                .num_kv_heads = config.num_kv_heads}));
  RETURN_IF_ERROR(FillRopeTable(capture_.get(), {.frequencies = model_.rope_frequencies(),
                                                 .attention_factor = config.rope_attention_factor,
                                                 .positions = positions_.as<int32_t>(),
                                                 .out = cos_sin_.as<float>(),
                                                 .num_tokens = batch_,
                                                 .head_dim = config.head_dim}));
  RETURN_IF_ERROR(Embed(capture_.get(), {.table = model_.embedding(),
                                         .ids = tokens_.as<int32_t>(),
                                         .out = residual_.data(),
                                         .dtype = model_.dtype(),
                                         .num_tokens = batch_,
                                         .width = config.hidden_dim}));
  for (size_t layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(EnqueueLayer(layer));
  }
  RETURN_IF_ERROR(Norm(model_.output_norm()));
  RETURN_IF_ERROR(products_->Run(capture_.get(), {.x = normed_.data(),
                                                  .weights = model_.output(),
                                                  .out = logits_.data(),
                                                  .dtype = model_.dtype(),
                                                  .out_dtype = DType::kF32,
                                                  .num_tokens = batch_,
                                                  .rows = config.vocab_tokens,
                                                  .cols = config.hidden_dim}));
  return DrawTokens(capture_.get(), {.logits = logits_.as<float>(),
                                     .draws = draws_.as<TokenDraw>(),
                                     .tokens = tokens_.as<int32_t>(),
                                     .num_sequences = batch_,
                                     .vocab_tokens = config.vocab_tokens});
}

absl::Status DeviceDecodeEngine::EnqueueLayer(size_t layer) {
  const ModelConfig& config = model_.config();
  const DeviceLayerWeights& w = model_.layer(layer);
  const size_t c = config.hidden_dim, f = config.ffn_dim, d = config.head_dim;
  RETURN_IF_ERROR(Norm(w.attention_norm));
  RETURN_IF_ERROR(Multiply({.x = normed_.data(),
                            .weights = w.qkv,
                            .bias = w.qkv_bias,
                            .out = qkv_.data(),
                            .rows = NumHeads(config) * d,
                            .cols = c}));
  RETURN_IF_ERROR(RopeAndStore(
      capture_.get(), {.qkv = qkv_.data(),
                       .query_norm = w.query_norm,
                       .key_norm = w.key_norm,
                       .cos_sin = cos_sin_.as<float>(),
                       .pages = new_pages_.as<std::byte*>() + layer * batch_ * config.num_kv_heads,
                       .slots = slots_.as<int32_t>(),
                       .dtype = model_.dtype(),
                       .pairs = config.rope_pairs,
                       .num_tokens = batch_,
                       .num_query_heads = config.num_query_heads,
                       .num_kv_heads = config.num_kv_heads,
                       .head_dim = d,
                       .norm_epsilon = config.norm_epsilon}));
  RETURN_IF_ERROR(PagedAttention(capture_.get(), Attention(layer)));
  RETURN_IF_ERROR(Multiply({.x = attended_.data(),
                            .weights = w.output,
                            .out = residual_.data(),
                            .rows = c,
                            .cols = config.num_query_heads * d,
                            .accumulate = true}));
  RETURN_IF_ERROR(Norm(w.ffn_norm));
  if (mixture_ != nullptr) {
    return mixture_->AddStep(capture_.get(), {.layer = layer,
                                              .normed = normed_.data(),
                                              .residual = residual_.data(),
                                              .num_tokens = batch_});
  }
  RETURN_IF_ERROR(Multiply({.x = normed_.data(),
                            .weights = w.gate_up,
                            .out = gate_up_.data(),
                            .rows = 2 * f,
                            .cols = c}));
  RETURN_IF_ERROR(SiluMul(capture_.get(), {.gate_up = gate_up_.data(),
                                           .out = gated_.data(),
                                           .dtype = model_.dtype(),
                                           .num_tokens = batch_,
                                           .width = f}));
  return Multiply({.x = gated_.data(),
                   .weights = w.down,
                   .out = residual_.data(),
                   .rows = c,
                   .cols = f,
                   .accumulate = true});
}

absl::StatusOr<std::vector<int32_t>> DeviceDecodeEngine::Tokens() {
  std::vector<int32_t> tokens(batch_);
  RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(tokens.data(), tokens_.data(), batch_ * sizeof(int32_t),
                                 cudaMemcpyDeviceToHost, stream_),
                 "tokens"));
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_), "decode step"));
  return tokens;
}

}  // namespace kvship::cuda
