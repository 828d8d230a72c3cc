// DevicePromptReading runs one prompt through a GPU. It enqueues one block of queries ahead of the
// one waited for, so that the GPU computes while the host ships a layer or serves others.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "compress/cuda/device_compressor.h"
#include "engine/cuda/device_prefill.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/stream.h"
#include "prefill_service/prompt_reader.h"

namespace kvship::cuda {

class DevicePromptReading final : public PromptReading {
 public:
  // Borrows the engine, and `staging`, which all readings of the engine share: a reading uses the
  // last buffer and appends larger ones. The GPU `ordinal` is the engine's, and current.
  static absl::StatusOr<std::unique_ptr<DevicePromptReading>> Create(
      DevicePrefillEngine& engine, int ordinal, std::vector<PinnedBuffer>& staging,
      const PrefillTask& task);

  absl::StatusOr<Event> Step() override;
  absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames& take_frames) override;
  bool done() const override { return num_blocks_done_ == num_blocks_; }
  double fraction() const override;
  size_t reused_tokens(size_t) const override { return run_->reused_tokens(); }
  absl::StatusOr<Array<float>> Logits(size_t prompt) override;

 private:
  // An enqueued block.
  struct Block {
    Event kind;
    cuda::Event done;
  };

  DevicePromptReading(DevicePrefillEngine& engine, int ordinal, std::vector<PinnedBuffer>& staging)
      : engine_(engine), ordinal_(ordinal), staging_(staging) {}

  // Enqueues the next block, if there is one.
  absl::Status EnqueueAhead();
  absl::Status GrowStaging(size_t num_bytes);

  DevicePrefillEngine& engine_;
  const int ordinal_;
  std::vector<PinnedBuffer>& staging_;
  size_t num_tokens_ = 0;
  size_t num_blocks_ = 0;
  size_t num_blocks_done_ = 0;
  std::unique_ptr<DeviceCompressor> compressor_;
  std::unique_ptr<DevicePrefillRun> run_;
  std::optional<Block> ahead_;
  DeviceLayerView finished_;  // after kLayerDone
  cuda::Event copied_;
};

}  // namespace kvship::cuda
