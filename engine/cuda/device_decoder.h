// DeviceDecoder is a GPU's Decoder: DeviceDecodeEngine's captured steps, from and to the host. What
// sequences take in next stays on the device; logits are copied only where they are wanted.
// Belongs to one thread, but for CheckPlan.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cuda/device_decode.h"
#include "engine/cuda/device_transformer.h"
#include "engine/decoder.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/stream.h"

namespace kvship::cuda {

class DeviceDecoder final : public Decoder {
 public:
  // On the GPU `ordinal`, whose memory takes the weights and activations; caches will lie in a pool
  // of `pool_bytes`. Errors: as DeviceTransformer::Upload and DeviceDecodeEngine::Create.
  static absl::StatusOr<std::unique_ptr<DeviceDecoder>> Create(const Transformer& model,
                                                               int ordinal, size_t max_sequences,
                                                               size_t pool_bytes);

  DType dtype() const { return model_->dtype(); }

  absl::Status CheckPlan(const KvPlan& plan) const override;

  // Any number of sequences up to max_sequences. Those whose prefixes differ in their format or in
  // their number of heads take turns, and so do more than the engine's scratch has room for.
  absl::Status Step(std::span<const Item> items) override;

  absl::Status CheckDevice() override;

  std::span<const float> logits(size_t item) const override;
  int32_t drawn(size_t item) const override { return drawn_[item]; }

 private:
  // A sequence of the engine's batch, as the engine knows it.
  struct Member {
    uint64_t cache_id;
    size_t num_tail_tokens;
    uint64_t index;      // of the token that it draws next
    int32_t next_token;  // which it drew
  };

  explicit DeviceDecoder(int ordinal) : ordinal_(ordinal) {}

  // A step of those items[i], i in `indices`, whose prefixes have one form; in halves where they
  // are too much at once.
  absl::Status StepTogether(std::span<const Item> items, const std::vector<size_t>& indices);
  absl::Status GiveTokens(std::span<const Item> items, const std::vector<size_t>& indices);

  const int ordinal_;
  std::unique_ptr<const DeviceTransformer> model_;
  Stream stream_;
  std::unique_ptr<DeviceDecodeEngine> engine_;
  std::vector<Member> batch_;   // that the engine has; none: it has none to go on with
  PinnedBuffer logits_;         // [max_sequences, vocab] f32
  std::vector<int32_t> drawn_;  // of the last step's items
};

}  // namespace kvship::cuda
