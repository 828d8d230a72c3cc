// Prefill on the GPU, layer by layer as in engine/prefill.h: memory is the residual stream, one
// layer of KV and one block of activations. A step enqueues the work of one (layer, block of
// queries) and returns at once; in a mixture of experts it may wait until experts have been chosen.
// As there, a prompt whose prefix is in the prefix cache (in pinned host memory) is read from where
// it differs.
//
// A DevicePrefillEngine holds the scratch memory that runs share. The engine, its runs and their
// stream belong to one thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "engine/cuda/device_mixture.h"
#include "engine/cuda/device_observation.h"
#include "engine/cuda/device_transformer.h"
#include "engine/prefix_cache.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/product.h"
#include "kv/device_layer.h"
#include "kv/layer_view.h"

namespace kvship::cuda {

class DevicePrefillEngine {
 public:
  struct Options {
    // Queries per step, a power of two: enough rows for products at full speed, few enough that
    // activations (0.9 GB at Llama-3.1-8B's shape) do not matter beside the weights.
    size_t block_tokens = 8192;
    // Size of the prefix cache, which is in pinned host memory.
    size_t prefix_cache_bytes = 0;
    // If false, or if cuDNN is missing or makes no plan, the plain kernel attends.
    bool use_cudnn = true;
  };

  // Bytes of one block of the prefix cache.
  static size_t PrefixBlockBytes(const ModelConfig& config);

  // Borrows the model. ResourceExhausted if the device has no room for a block's activations.
  static absl::StatusOr<std::unique_ptr<DevicePrefillEngine>> Create(const DeviceTransformer& model,
                                                                     cudaStream_t stream,
                                                                     Options options);

  const DeviceTransformer& model() const { return model_; }
  cudaStream_t stream() const { return stream_; }
  const Options& options() const { return options_; }
  const PrefixCache& prefix_cache() const { return prefix_cache_; }
  bool has_cudnn() const { return cudnn_ != nullptr; }

 private:
  friend class DevicePrefillRun;

  DevicePrefillEngine(const DeviceTransformer& model, cudaStream_t stream, Options options);

  const DeviceTransformer& model_;
  const cudaStream_t stream_;
  const Options options_;
  PrefixCache prefix_cache_;  // blocks [L, 2, H, kPrefixBlockTokens, D], K and then V
  std::unique_ptr<Products> products_;
  std::unique_ptr<CudnnAttention> cudnn_;
  std::unique_ptr<DeviceMixture> mixture_;  // null in dense models
  // Activations of one block of M rows.
  DeviceBuffer normed_;    // [M, C]
  DeviceBuffer qkv_;       // [M, (Hq + 2 H) D]
  DeviceBuffer attended_;  // [M, Hq D]
  DeviceBuffer lse_;       // [Hq, M] f32
  DeviceBuffer gate_up_;   // [M, 2 F]; empty in a mixture
  DeviceBuffer gated_;     // [M, F]; likewise
  DeviceBuffer logits_;    // [vocab] f32
};

class DevicePrefillRun {
 public:
  // Bytes of device memory that a prompt takes.
  static size_t BytesFor(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs);

  // Allocates the memory of one prompt: at least one token, ids inside the vocabulary.
  // Prefixes are shared among prompts of the same salt. ResourceExhausted if the device has no
  // room.
  static absl::StatusOr<std::unique_ptr<DevicePrefillRun>> Create(
      DevicePrefillEngine& engine, std::span<const int32_t> tokens, const LayerNeeds& needs,
      absl::string_view cache_salt = {});

  enum class Event { kBlockDone, kLayerDone };

  // Enqueues the next block of queries. After kLayerDone, work enqueued on the stream before the
  // next Step may read finished_layer(). Must not be called once done().
  absl::StatusOr<Event> Step();

  bool done() const { return layer_ == engine_.model().config().num_layers; }
  // The tokens at the prompt's beginning that are not computed, because the prefix cache had them.
  size_t reused_tokens() const { return prefix_.reused_tokens(); }
  DeviceLayerView finished_layer() const;

  // Call it once done: enqueues the logits after the last token. Device memory [vocab] f32, valid
  // until the engine's next Logits.
  absl::StatusOr<const float*> Logits();

 private:
  DevicePrefillRun(DevicePrefillEngine& engine, size_t num_tokens, const LayerNeeds& needs)
      : engine_(engine), num_tokens_(num_tokens), needs_(needs) {}

  // For a prompt of T tokens of which the last `num_rows` are computed.
  static BufferSizes<DevicePrefillRun> Sizes(const ModelConfig& config, size_t num_tokens,
                                             size_t num_rows);
  absl::Status Begin(std::span<const int32_t> tokens, absl::string_view cache_salt);
  // Copy K and V of the current layer from the prefix cache's blocks, and into blocks to be kept.
  absl::Status FetchReused();
  absl::Status FillBlocks();
  absl::Status CopyBlock(size_t block, cudaMemcpyKind kind);
  absl::Status QueryKeyValue(size_t begin, size_t num_rows);
  absl::Status Attend(size_t begin, size_t num_rows);
  absl::Status FeedForward(std::byte* residual, const std::byte* attended, size_t num_rows);
  std::byte* Residual(size_t row) const;

  DevicePrefillEngine& engine_;
  const size_t num_tokens_;  // T
  const LayerNeeds needs_;
  PrefixCache::Prefix prefix_;
  size_t num_rows_ = 0;  // M, the tokens that are computed
  size_t head_stride_ = 0;
  size_t layer_ = 0;
  size_t begin_ = 0;       // first row of the next block
  DeviceBuffer tokens_;    // [M] int32
  DeviceBuffer residual_;  // [M, C]
  DeviceBuffer cos_sin_;   // [M, D] f32
  DeviceBuffer keys_;      // [H, T, D] of the current layer, with room to head_stride_
  DeviceBuffer values_;
  std::unique_ptr<DeviceObservation> observation_;
};

}  // namespace kvship::cuda
