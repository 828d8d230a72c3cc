#include "engine/cuda/device_prefill.h"

#include <algorithm>

#include "base/status_macros.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rope_table.h"

namespace kvship::cuda {
namespace {

// Rows that keys and values of T tokens get. Few different numbers, for plans are made for strides.
size_t KeyRows(size_t num_tokens) {
  constexpr size_t kStep = 8192;
  if (num_tokens <= kStep) return AttentionBucket(num_tokens);
  return (num_tokens + kStep - 1) / kStep * kStep;
}

// Of one head's K or V in a block of the prefix cache.
size_t BlockHeadBytes(const ModelConfig& config) {
  return kPrefixBlockTokens * config.head_dim * kElementBytes;
}

absl::StatusOr<PrefixCache::Block> PinnedBlock(size_t num_bytes) {
  ASSIGN_OR_RETURN(PinnedBuffer memory, PinnedBuffer::Create(num_bytes));
  const auto owner = std::make_shared<PinnedBuffer>(std::move(memory));
  return PrefixCache::Block(owner, owner->data());
}

}  // namespace

size_t DevicePrefillEngine::PrefixBlockBytes(const ModelConfig& config) {
  return config.num_layers * 2 * config.num_kv_heads * BlockHeadBytes(config);
}

DevicePrefillEngine::DevicePrefillEngine(const DeviceTransformer& model, cudaStream_t stream,
                                         Options options)
    : model_(model),
      stream_(stream),
      options_(options),
      prefix_cache_(PrefixBlockBytes(model.config()), options.prefix_cache_bytes, PinnedBlock) {}

absl::StatusOr<std::unique_ptr<DevicePrefillEngine>> DevicePrefillEngine::Create(
    const DeviceTransformer& model, cudaStream_t stream, Options options) {
  const ModelConfig& config = model.config();
  if (AttentionBucket(options.block_tokens) != options.block_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("block_tokens ", options.block_tokens,
                                                   ": wanted a power of two, at least ",
                                                   kLeastAttentionBucket));
  }
  std::unique_ptr<DevicePrefillEngine> engine(new DevicePrefillEngine(model, stream, options));
  // Pinning takes milliseconds a block.
  RETURN_IF_ERROR(engine->prefix_cache_.TakeMemory());
  ASSIGN_OR_RETURN(engine->products_, Products::Create());
  if (options.use_cudnn) {
    auto cudnn = CudnnAttention::Create();
    if (cudnn.ok()) {
      engine->cudnn_ = *std::move(cudnn);
    } else if (!absl::IsUnimplemented(cudnn.status())) {
      return cudnn.status();
    }
  }
  const size_t row = options.block_tokens * kElementBytes;
  const size_t q = config.num_query_heads * config.head_dim;
  ASSIGN_OR_RETURN(engine->normed_, DeviceBuffer::Create(row * config.hidden_dim));
  ASSIGN_OR_RETURN(engine->qkv_, DeviceBuffer::Create(row * NumHeads(config) * config.head_dim));
  ASSIGN_OR_RETURN(engine->attended_, DeviceBuffer::Create(row * q));
  ASSIGN_OR_RETURN(engine->lse_, DeviceBuffer::Create(options.block_tokens *
                                                      config.num_query_heads * sizeof(float)));
  if (config.has_experts()) {
    ASSIGN_OR_RETURN(engine->mixture_,
                     DeviceMixture::Create(model, *engine->products_, DeviceMixture::Use::kPrompts,
                                           options.block_tokens));
  } else {
    ASSIGN_OR_RETURN(engine->gate_up_, DeviceBuffer::Create(row * 2 * config.ffn_dim));
    ASSIGN_OR_RETURN(engine->gated_, DeviceBuffer::Create(row * config.ffn_dim));
  }
  ASSIGN_OR_RETURN(engine->logits_, DeviceBuffer::Create(config.vocab_tokens * sizeof(float)));
  // Rows past a block's end may be read, though never used: they must not hold NaN.
  RETURN_IF_ERROR(CudaStatus(
      cudaMemsetAsync(engine->qkv_.data(), 0, engine->qkv_.num_bytes(), stream), "activations"));
  return engine;
}

absl::StatusOr<std::unique_ptr<DevicePrefillRun>> DevicePrefillRun::Create(
    DevicePrefillEngine& engine, std::span<const int32_t> tokens, const LayerNeeds& needs,
    absl::string_view cache_salt) {
  std::unique_ptr<DevicePrefillRun> run(new DevicePrefillRun(engine, tokens.size(), needs));
  RETURN_IF_ERROR(run->Begin(tokens, cache_salt));
  return run;
}

BufferSizes<DevicePrefillRun> DevicePrefillRun::Sizes(const ModelConfig& config, size_t num_tokens,
                                                      size_t num_rows) {
  using Self = DevicePrefillRun;
  const size_t kv_bytes =
      config.num_kv_heads * KeyRows(num_tokens) * config.head_dim * kElementBytes;
  return {{&Self::tokens_, num_rows * sizeof(int32_t)},
          {&Self::residual_, num_rows * config.hidden_dim * kElementBytes},
          {&Self::cos_sin_, num_rows * config.head_dim * sizeof(float)},
          {&Self::keys_, kv_bytes},
          {&Self::values_, kv_bytes}};
}

size_t DevicePrefillRun::BytesFor(const ModelConfig& config, size_t num_tokens,
                                  const LayerNeeds& needs) {
  return TotalBytes(Sizes(config, num_tokens, num_tokens)) +
         DeviceObservation::BytesFor(config, num_tokens, needs);
}

absl::Status DevicePrefillRun::Begin(std::span<const int32_t> tokens,
                                     absl::string_view cache_salt) {
  const ModelConfig& config = engine_.model().config();
  const cudaStream_t stream = engine_.stream();
  prefix_ = engine_.prefix_cache_.Begin(tokens, cache_salt, MostReused(num_tokens_, needs_));
  num_rows_ = num_tokens_ - reused_tokens();
  tokens = tokens.last(num_rows_);
  head_stride_ = KeyRows(num_tokens_) * config.head_dim;
  RETURN_IF_ERROR(CreateBuffers(Sizes(config, num_tokens_, num_rows_), *this));
  ASSIGN_OR_RETURN(observation_, DeviceObservation::Create(config, num_tokens_, needs_, stream));
  // As above: rows that are not there yet are read by whole tiles, and masked.
  for (const DeviceBuffer* rows : {&keys_, &values_}) {
    RETURN_IF_ERROR(
        CudaStatus(cudaMemsetAsync(rows->data(), 0, rows->num_bytes(), stream), "keys and values"));
  }
  RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(tokens_.data(), tokens.data(), tokens.size_bytes(),
                                             cudaMemcpyHostToDevice, stream),
                             "tokens"));
  RETURN_IF_ERROR(FillRopeTable(stream, {.frequencies = engine_.model().rope_frequencies(),
                                         .attention_factor = config.rope_attention_factor,
                                         .out = cos_sin_.as<float>(),
                                         .num_tokens = num_rows_,
                                         .head_dim = config.head_dim,
                                         .first_position = reused_tokens()}));
  return Embed(stream, {.table = engine_.model().embedding(),
                        .ids = tokens_.as<int32_t>(),
                        .out = residual_.data(),
                        .dtype = engine_.model().dtype(),
                        .num_tokens = num_rows_,
                        .width = config.hidden_dim});
}

std::byte* DevicePrefillRun::Residual(size_t row) const {
  return residual_.data() + row * engine_.model().config().hidden_dim * kElementBytes;
}

DeviceLayerView DevicePrefillRun::finished_layer() const {
  DeviceLayerView view = {.layer = layer_ - 1,
                          .dtype = engine_.model().dtype(),
                          .keys = keys_.data(),
                          .values = values_.data(),
                          .head_stride = head_stride_};
  observation_->ShowIn(&view);
  return view;
}

absl::StatusOr<DevicePrefillRun::Event> DevicePrefillRun::Step() {
  const ModelConfig& config = engine_.model().config();
  const size_t begin = begin_;
  const size_t end = std::min(begin + engine_.options().block_tokens, num_rows_);
  const size_t position = reused_tokens() + begin;
  if (begin == 0) {
    RETURN_IF_ERROR(observation_->Clear());
    RETURN_IF_ERROR(FetchReused());
  }
  RETURN_IF_ERROR(QueryKeyValue(begin, end - begin));
  // Of the last layer nobody reads the residual stream but at the last position; its queries matter
  // where they vote.
  const bool all_are_read = layer_ + 1 < config.num_layers;
  if (all_are_read || end == num_rows_ ||
      observation_->WantsAttention(position, position + end - begin)) {
    RETURN_IF_ERROR(Attend(begin, end - begin));
  }
  if (all_are_read) {
    RETURN_IF_ERROR(FeedForward(Residual(begin), engine_.attended_.data(), end - begin));
  } else if (end == num_rows_) {
    const size_t row_bytes = config.num_query_heads * config.head_dim * kElementBytes;
    RETURN_IF_ERROR(FeedForward(Residual(end - 1),
                                engine_.attended_.data() + (end - 1 - begin) * row_bytes, 1));
  }
  begin_ = end;
  if (end < num_rows_) return Event::kBlockDone;
  RETURN_IF_ERROR(observation_->Finish());
  RETURN_IF_ERROR(FillBlocks());
  begin_ = 0;
  ++layer_;
  // Others read the blocks on the same stream, so after what fills them.
  if (done()) engine_.prefix_cache_.Keep(prefix_);
  return Event::kLayerDone;
}

absl::Status DevicePrefillRun::CopyBlock(size_t block, cudaMemcpyKind kind) {
  const ModelConfig& config = engine_.model().config();
  const size_t width = BlockHeadBytes(config), height = config.num_kv_heads;
  const size_t pitch = head_stride_ * kElementBytes;
  std::byte* kept = prefix_.blocks[block].get() + layer_ * 2 * height * width;
  for (const DeviceBuffer* cache : {&keys_, &values_}) {
    std::byte* const rows = cache->data() + block * width;
    const bool keeps = kind == cudaMemcpyDeviceToHost;
    RETURN_IF_ERROR(CudaStatus(
        cudaMemcpy2DAsync(keeps ? kept : rows, keeps ? width : pitch, keeps ? rows : kept,
                          keeps ? pitch : width, width, height, kind, engine_.stream()),
        "prefix cache"));
    kept += height * width;
  }
  return absl::OkStatus();
}

absl::Status DevicePrefillRun::FetchReused() {
  for (size_t i = 0; i < prefix_.num_reused; ++i) {
    RETURN_IF_ERROR(CopyBlock(i, cudaMemcpyHostToDevice));
  }
  return absl::OkStatus();
}

absl::Status DevicePrefillRun::FillBlocks() {
  for (size_t i = prefix_.num_found; i < prefix_.blocks.size(); ++i) {
    RETURN_IF_ERROR(CopyBlock(i, cudaMemcpyDeviceToHost));
  }
  return absl::OkStatus();
}

absl::Status DevicePrefillRun::QueryKeyValue(size_t begin, size_t num_rows) {
  const DeviceTransformer& model = engine_.model();
  const ModelConfig& config = model.config();
  const cudaStream_t stream = engine_.stream();
  RETURN_IF_ERROR(RmsNorm(stream, {.x = Residual(begin),
                                   .weight = model.layer(layer_).attention_norm,
                                   .out = engine_.normed_.data(),
                                   .dtype = model.dtype(),
                                   .num_tokens = num_rows,
                                   .width = config.hidden_dim,
                                   .epsilon = config.norm_epsilon}));
  RETURN_IF_ERROR(engine_.products_->Run(stream, {.x = engine_.normed_.data(),
                                                  .weights = model.layer(layer_).qkv,
                                                  .bias = model.layer(layer_).qkv_bias,
                                                  .out = engine_.qkv_.data(),
                                                  .dtype = model.dtype(),
                                                  .out_dtype = model.dtype(),
                                                  .num_tokens = num_rows,
                                                  .rows = NumHeads(config) * config.head_dim,
                                                  .cols = config.hidden_dim}));
  const RopeArgs rope = {.qkv = engine_.qkv_.data(),
                         .query_norm = model.layer(layer_).query_norm,
                         .key_norm = model.layer(layer_).key_norm,
                         .cos_sin = cos_sin_.as<float>() + begin * config.head_dim,
                         .keys = keys_.data(),
                         .values = values_.data(),
                         .dtype = model.dtype(),
                         .pairs = config.rope_pairs,
                         .num_tokens = num_rows,
                         .num_query_heads = config.num_query_heads,
                         .num_kv_heads = config.num_kv_heads,
                         .head_dim = config.head_dim,
                         .head_stride = head_stride_,
                         .first_row = reused_tokens() + begin,
                         .norm_epsilon = config.norm_epsilon};
  RETURN_IF_ERROR(observation_->AddBeforeRope(rope));
  return RopeAndStore(stream, rope);
}

absl::Status DevicePrefillRun::Attend(size_t begin, size_t num_rows) {
  const ModelConfig& config = engine_.model().config();
  const PromptAttentionArgs args = {.q = engine_.qkv_.data(),
                                    .keys = keys_.data(),
                                    .values = values_.data(),
                                    .out = engine_.attended_.data(),
                                    .lse = engine_.lse_.as<float>(),
                                    .dtype = engine_.model().dtype(),
                                    .num_queries = num_rows,
                                    .num_query_heads = config.num_query_heads,
                                    .num_kv_heads = config.num_kv_heads,
                                    .head_dim = config.head_dim,
                                    .head_stride = head_stride_,
                                    .q_row_stride = NumHeads(config) * config.head_dim,
                                    .lse_row_stride = AttentionBucket(num_rows),
                                    .first_position = reused_tokens() + begin};
  absl::Status attended = absl::UnimplementedError("no cuDNN");
  if (engine_.cudnn_ != nullptr) attended = engine_.cudnn_->Run(engine_.stream(), args);
  if (absl::IsUnimplemented(attended)) attended = PromptAttention(engine_.stream(), args);
  RETURN_IF_ERROR(attended);
  return observation_->AddAttention(args);
}

absl::Status DevicePrefillRun::FeedForward(std::byte* residual, const std::byte* attended,
                                           size_t num_rows) {
  const DeviceTransformer& model = engine_.model();
  const ModelConfig& config = model.config();
  const DeviceLayerWeights& w = model.layer(layer_);
  const cudaStream_t stream = engine_.stream();
  ProductArgs product = {
      .dtype = model.dtype(), .out_dtype = model.dtype(), .num_tokens = num_rows};
  const auto multiply = [&](const std::byte* x, const std::byte* weights, std::byte* out,
                            size_t rows, size_t cols, bool accumulate) {
    product.x = x;
    product.weights = weights;
    product.out = out;
    product.rows = rows;
    product.cols = cols;
    product.accumulate = accumulate;
    return engine_.products_->Run(stream, product);
  };
  const size_t c = config.hidden_dim, f = config.ffn_dim;
  RETURN_IF_ERROR(multiply(attended, w.output, residual, c,
                           config.num_query_heads * config.head_dim, /*accumulate=*/true));
  RETURN_IF_ERROR(RmsNorm(stream, {.x = residual,
                                   .weight = w.ffn_norm,
                                   .out = engine_.normed_.data(),
                                   .dtype = model.dtype(),
                                   .num_tokens = num_rows,
                                   .width = c,
                                   .epsilon = config.norm_epsilon}));
  if (engine_.mixture_ != nullptr) {
    return engine_.mixture_->AddBlock(stream, {.layer = layer_,
                                               .normed = engine_.normed_.data(),
                                               .residual = residual,
                                               .num_tokens = num_rows});
  }
  RETURN_IF_ERROR(multiply(engine_.normed_.data(), w.gate_up, engine_.gate_up_.data(), 2 * f, c,
                           /*accumulate=*/false));
  RETURN_IF_ERROR(SiluMul(stream, {.gate_up = engine_.gate_up_.data(),
                                   .out = engine_.gated_.data(),
                                   .dtype = model.dtype(),
                                   .num_tokens = num_rows,
                                   .width = f}));
  return multiply(engine_.gated_.data(), w.down, residual, c, f, /*accumulate=*/true);
}

absl::StatusOr<const float*> DevicePrefillRun::Logits() {
  const DeviceTransformer& model = engine_.model();
  const ModelConfig& config = model.config();
  RETURN_IF_ERROR(RmsNorm(engine_.stream(), {.x = Residual(num_rows_ - 1),
                                             .weight = model.output_norm(),
                                             .out = engine_.normed_.data(),
                                             .dtype = model.dtype(),
                                             .num_tokens = 1,
                                             .width = config.hidden_dim,
                                             .epsilon = config.norm_epsilon}));
  RETURN_IF_ERROR(engine_.products_->Run(engine_.stream(), {.x = engine_.normed_.data(),
                                                            .weights = model.output(),
                                                            .out = engine_.logits_.data(),
                                                            .dtype = model.dtype(),
                                                            .out_dtype = DType::kF32,
                                                            .num_tokens = 1,
                                                            .rows = config.vocab_tokens,
                                                            .cols = config.hidden_dim}));
  return engine_.logits_.as<float>();
}

}  // namespace kvship::cuda
