// DevicePromptReader reads prompts on one GPU with DevicePrefillEngine and DeviceCompressor. While
// the host ships a layer, the GPU always has the next block of queries to compute.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cuda/device_prefill.h"
#include "engine/cuda/device_transformer.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/stream.h"
#include "prefill_service/prompt_reader.h"

namespace kvship::cuda {

class DevicePromptReader final : public PromptReader {
 public:
  // Errors: as OpenGpuPromptReader.
  static absl::StatusOr<std::unique_ptr<DevicePromptReader>> Create(const Transformer& model,
                                                                    int ordinal,
                                                                    size_t block_tokens,
                                                                    size_t prefix_cache_bytes);

  const ModelConfig& config() const override { return model_->config(); }
  size_t pack_tokens() const override { return 0; }
  absl::Status Check(const PrefillTask& task) const override;
  size_t BytesFor(const PrefillTask& task) const override;
  size_t prefix_cache_bytes() const override { return engine_->prefix_cache().num_bytes(); }
  size_t CountReusable(const PrefillTask& task) const override;
  absl::Status CheckDevice() override;
  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override;

 private:
  explicit DevicePromptReader(int ordinal) : ordinal_(ordinal) {}

  const int ordinal_;
  std::unique_ptr<const DeviceTransformer> model_;
  Stream stream_;
  std::unique_ptr<DevicePrefillEngine> engine_;
  // Readings copy to the host into the last buffer. Earlier ones, together no larger, are kept:
  // freeing pinned memory waits for the device, and so for transfers to peers.
  std::vector<PinnedBuffer> staging_;
};

}  // namespace kvship::cuda
