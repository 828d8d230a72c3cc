// DeviceDecoder is a GPU's Decoder: it connects DeviceDecodeEngine's captured steps to the host.
// Drawn tokens stay on the device as the next inputs; logits are copied only if they are wanted.
// Belongs to one thread, except CheckPlan.
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
  // Allocates weights and activations on the GPU `ordinal`; `pool_bytes` is the size of the pool
  // that holds the caches. Errors: as DeviceTransformer::Upload and DeviceDecodeEngine::Create.
  static absl::StatusOr<std::unique_ptr<DeviceDecoder>> Create(const Transformer& model,
                                                               int ordinal, size_t max_sequences,
                                                               size_t pool_bytes);

  DType dtype() const { return model_->dtype(); }

  absl::Status CheckPlan(const KvPlan& plan) const override;

  // Takes up to max_sequences sequences. They run in turns if their prefixes differ in format or in
  // number of heads, or need more scratch than the engine has.
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

  // Steps items[i] for i in `indices`, whose prefixes have one form; in halves if they need too
  // much scratch.
  absl::Status StepTogether(std::span<const Item> items, const std::vector<size_t>& indices);
  absl::Status GiveTokens(std::span<const Item> items, const std::vector<size_t>& indices);

  const int ordinal_;
  std::unique_ptr<const DeviceTransformer> model_;
  Stream stream_;
  std::unique_ptr<DeviceDecodeEngine> engine_;
  std::vector<Member> batch_;   // the engine's; empty if it has none to continue
  PinnedBuffer logits_;         // [max_sequences, vocab] f32
  std::vector<int32_t> drawn_;  // of the last step's items
};

}  // namespace kvship::cuda
