// DeviceDecodeEngine decodes on the GPU. One step of a batch is one captured graph, which appends
// each sequence's new token to its cache, attends, and draws the next token, all without the host.
// The engine and its stream belong to one thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>
#include <tuple>
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
  // Borrows the model. `pool_bytes` is the size of the pool that holds the caches.
  // ResourceExhausted if the device has no room for the activations of `max_sequences` and
  // attention's scratch, InvalidArgument if attention does not support such a batch.
  static absl::StatusOr<std::unique_ptr<DeviceDecodeEngine>> Create(const DeviceTransformer& model,
                                                                    cudaStream_t stream,
                                                                    size_t max_sequences,
                                                                    size_t pool_bytes);

  struct Item {
    int32_t token = 0;  // inside the vocabulary
    // Its pages are device memory: the prefix in any format but f32, one set per KV head or query
    // head, both the same throughout the batch; the tail in the model's dtype. Otherwise
    // Unimplemented.
    const SequenceCache* cache = nullptr;
    TokenDraw draw = {};  // of the first token drawn; later ones follow by index
  };

  // Sets the batch of the next steps. Copies page tables to the device and waits for the copy.
  // InvalidArgument if it is empty or larger than max_sequences; ResourceExhausted if device memory
  // or the scratch (MostSplitRows) is too small, and then there is no batch.
  absl::Status SetBatch(std::span<const Item> items);
  // Enqueues the batch's next input tokens, if they are not those that the last step drew.
  absl::Status SetTokens(std::span<const int32_t> tokens);

  // Enqueues a step: every sequence processes its token and draws the next one. The caller runs no
  // more steps than each tail has room for, and calls AdvanceTail of each cache.
  absl::Status Step();

  // Waits for the last step and returns the tokens that it drew.
  absl::StatusOr<std::vector<int32_t>> Tokens();
  // The last step's logits [B, vocab] f32 in device memory.
  const float* logits() const { return logits_.as<float>(); }

 private:
  DeviceDecodeEngine(const DeviceTransformer& model, cudaStream_t stream, size_t max_sequences)
      : model_(model), stream_(stream), max_sequences_(max_sequences) {}

  // Of paged_, [L, B, S] with all pages of the tails.
  absl::Status CopyTables(std::span<const Item> items, const std::vector<uint32_t>& first_split);
  // All operations of a step are enqueued on capture_ alone.
  absl::StatusOr<cudaGraphExec_t> Capture();
  absl::Status EnqueueStep();
  absl::Status EnqueueLayer(size_t layer);
  // For the batch, in the model's dtype.
  absl::Status Multiply(ProductArgs args);
  absl::Status Norm(const std::byte* weight);
  PagedAttentionArgs Attention(size_t layer) const;

  const DeviceTransformer& model_;
  const cudaStream_t stream_;
  const size_t max_sequences_;
  // Steps are captured on it, and nothing runs there. It is not in order with the default stream:
  // any use of that during a capture, as by NCCL while it connects, would end the capture.
  Stream capture_;
  std::unique_ptr<Products> products_;
  std::unique_ptr<DeviceMixture> mixture_;  // null in dense models

  size_t most_split_rows_ = 0;  // capacity of workspace_
  size_t batch_ = 0;            // B
  size_t num_splits_ = 0;       // of StepSplits, with full tails
  PageFormat prefix_format_ = PageFormat::kBf16;
  size_t num_heads_ = 0;  // S: sets of kept tokens of a sequence, H or Hq
  // Captured steps, keyed by batch_, num_splits_, prefix_format_ and num_heads_. The buffers that
  // they name must not move, except page_table_, which they find through heads_.
  using Shape = std::tuple<size_t, size_t, PageFormat, size_t>;
  // Each takes about a megabyte, and tens of milliseconds to capture. Sessions that come and go, in
  // batches of up to 32, have a hundred shapes; most steps have one of a few.
  static constexpr size_t kMostGraphs = 64;
  StepGraphs<Shape> graphs_{kMostGraphs};

  DeviceBuffer page_table_;   // addresses of all pages of the batch
  DeviceBuffer heads_;        // [L, B, S] PagedHead
  DeviceBuffer first_split_;  // [L, B * S + 1]
  DeviceBuffer new_pages_;    // [L, B, H]: the new token's pages
  DeviceBuffer slots_;        // [B] int32
  DeviceBuffer positions_;    // [B] int32
  DeviceBuffer tokens_;       // [B] int32
  DeviceBuffer draws_;        // [B] TokenDraw
  DeviceBuffer cos_sin_;      // [B, D] f32
  DeviceBuffer residual_;     // [B, C]
  DeviceBuffer normed_;       // [B, C]
  DeviceBuffer qkv_;          // [B, (Hq + 2 H) D]
  DeviceBuffer attended_;     // [B, Hq D]
  DeviceBuffer gate_up_;      // [B, 2 F]; empty in a mixture
  DeviceBuffer gated_;        // [B, F]; likewise
  DeviceBuffer logits_;       // [B, vocab] f32
  DeviceBuffer workspace_;    // of attention

  std::vector<int32_t> given_tokens_;  // which the copy to tokens_ may still read
  // Of CopyTables, which keeps their memory: of tens of megabytes the system would give fresh pages
  // at each call, and take far longer than the rest.
  std::vector<kvship::PagedHead> paged_;
  std::vector<const std::byte*> host_pages_;
  std::vector<PagedHead> host_heads_;
};

}  // namespace kvship::cuda
