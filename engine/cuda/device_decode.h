// Decode on the GPU: one step of a batch is one captured graph, which appends each sequence's new
// token to its cache, attends, and draws the next token, all without the host. Belongs to one
// thread; so does its stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cuda/device_mixture.h"
#include "engine/cuda/device_transformer.h"
#include "engine/cuda/step_graphs.h"
#include "engine/cuda/step_splits.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/stream.h"
#include "kernels/token_draw.h"
#include "kv/sequence.h"

namespace kvship::cuda {

class DeviceDecodeEngine {
 public:
  // Borrows the model. Caches will lie in a pool of `pool_bytes`. ResourceExhausted if the device
  // has no room for the activations of `max_sequences` and attention's scratch, InvalidArgument if
  // attention takes no such batch.
  static absl::StatusOr<std::unique_ptr<DeviceDecodeEngine>> Create(const DeviceTransformer& model,
                                                                    cudaStream_t stream,
                                                                    size_t max_sequences,
                                                                    size_t pool_bytes);

  struct Item {
    int32_t token = 0;  // inside the vocabulary
    // Its pages are device memory: the prefix in any format but f32, a set per KV head or per query
    // head, both as all others of the batch, the tail in the model's dtype. Unimplemented
    // otherwise.
    const SequenceCache* cache = nullptr;
    TokenDraw draw = {};  // of the first token that comes out; those after it follow by index
  };

  // The batch of the steps to come. Copies page tables to the device and waits for that.
  // ResourceExhausted if there is no room for them or in the scratch (MostSplitRows); then there is
  // no batch.
  absl::Status SetBatch(std::span<const Item> items);
  // Enqueues what the batch takes in next, where that is not what the last step drew.
  absl::Status SetTokens(std::span<const int32_t> tokens);

  // Enqueues a step: every sequence takes in its token, and has the next one drawn. Of a
  // sequence not more steps than its tail has room for; the caller counts them, and calls
  // AdvanceTail of each cache.
  absl::Status Step();

  // The tokens drawn by the last step. Waits for it.
  absl::StatusOr<std::vector<int32_t>> Tokens();
  // Device memory [B, vocab] f32 of the last step.
  const float* logits() const { return logits_.as<float>(); }

 private:
  DeviceDecodeEngine(const DeviceTransformer& model, cudaStream_t stream, size_t max_sequences)
      : model_(model), stream_(stream), max_sequences_(max_sequences) {}

  // `from` [L, B, S] with all pages of the tails.
  absl::Status CopyTables(std::span<const Item> items, std::span<const kvship::PagedHead> from,
                          const std::vector<uint32_t>& first_split);
  // What a step does, from its first operation to its last, is enqueued on capture_ alone.
  absl::StatusOr<cudaGraphExec_t> Capture();
  absl::Status EnqueueStep();
  absl::Status EnqueueLayer(size_t layer);
  // Of the batch, in the model's format.
  absl::Status Multiply(ProductArgs args);
  absl::Status Norm(const std::byte* weight);
  PagedAttentionArgs Attention(size_t layer) const;

  const DeviceTransformer& model_;
  const cudaStream_t stream_;
  const size_t max_sequences_;
  // Where steps are captured, and nothing runs. Were it in order with the default stream, whoever
  // uses that meanwhile, as NCCL may while it connects, would end the capture.
  Stream capture_;
  std::unique_ptr<Products> products_;
  std::unique_ptr<DeviceMixture> mixture_;  // null in dense models

  size_t most_split_rows_ = 0;  // that workspace_ holds
  size_t batch_ = 0;            // B
  size_t num_splits_ = 0;       // of StepSplits, with full tails
  PageFormat prefix_format_ = PageFormat::kBf16;
  size_t num_heads_ = 0;  // S: sets of kept tokens of a sequence, H or Hq
  // Captured steps, by batch_, num_splits_ and the two others. The buffers that they name stay
  // where they are: page_table_, which may move, they find through heads_.
  using Shape = std::tuple<size_t, size_t, PageFormat, size_t>;
  // Each takes a megabyte or so, and tens of milliseconds to make. Sessions that come and go, in
  // batches of up to 32, have a hundred shapes; most steps are of a few.
  static constexpr size_t kMostGraphs = 64;
  StepGraphs<Shape> graphs_{kMostGraphs};

  DeviceBuffer page_table_;   // addresses of all pages of the batch
  DeviceBuffer heads_;        // [L, B, S] PagedHead
  DeviceBuffer first_split_;  // [L, B * S + 1]
  DeviceBuffer new_pages_;    // [L, B, H]: where the new token goes
  DeviceBuffer slots_;        // [B] int32
  DeviceBuffer positions_;    // [B] int32
  DeviceBuffer tokens_;       // [B] int32
  DeviceBuffer draws_;        // [B] TokenDraw
  DeviceBuffer cos_sin_;      // [B, D] f32
  DeviceBuffer residual_;     // [B, C]
  DeviceBuffer normed_;       // [B, C]
  DeviceBuffer qkv_;          // [B, (Hq + 2 H) D]
  DeviceBuffer attended_;     // [B, Hq D]
  DeviceBuffer gate_up_;      // [B, 2 F]; none where there is a mixture
  DeviceBuffer gated_;        // [B, F]; likewise
  DeviceBuffer logits_;       // [B, vocab] f32
  DeviceBuffer workspace_;    // of attention
};

}  // namespace kvship::cuda
