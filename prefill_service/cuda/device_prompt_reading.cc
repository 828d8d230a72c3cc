#include "prefill_service/cuda/device_prompt_reading.h"

#include <bit>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "engine/prefill.h"

namespace kvship::cuda {

absl::StatusOr<std::unique_ptr<DevicePromptReading>> DevicePromptReading::Create(
    DevicePrefillEngine& engine, int ordinal, std::vector<PinnedBuffer>& staging,
    const PrefillTask& task) {
  const ModelConfig& config = engine.model().config();
  std::unique_ptr<DevicePromptReading> reading(new DevicePromptReading(engine, ordinal, staging));
  ASSIGN_OR_RETURN(reading->compressor_,
                   DeviceCompressor::Create(task.compression, ShapeOf(config), task.plan,
                                            engine.model().dtype(), engine.stream()));
  ASSIGN_OR_RETURN(reading->run_,
                   DevicePrefillRun::Create(engine, task.tokens, reading->compressor_->needs(),
                                            task.cache_salt));
  ASSIGN_OR_RETURN(reading->copied_, cuda::Event::Create());
  reading->num_tokens_ = task.tokens.size();
  const size_t num_rows = task.tokens.size() - reading->run_->reused_tokens();
  const size_t block_tokens = engine.options().block_tokens;
  reading->num_blocks_ = config.num_layers * ((num_rows + block_tokens - 1) / block_tokens);
  RETURN_IF_ERROR(reading->GrowStaging(reading->compressor_->compact().most_copied_bytes()));
  return reading;
}

double DevicePromptReading::fraction() const {
  if (done()) return 1;
  const double done = static_cast<double>(num_blocks_done_) / static_cast<double>(num_blocks_);
  const double reused =
      static_cast<double>(run_->reused_tokens()) / static_cast<double>(num_tokens_);
  return reused + (1 - reused) * done;
}

absl::Status DevicePromptReading::GrowStaging(size_t num_bytes) {
  if (!staging_.empty() && num_bytes <= staging_.back().num_bytes()) return absl::OkStatus();
  ASSIGN_OR_RETURN(PinnedBuffer grown, PinnedBuffer::Create(std::bit_ceil(num_bytes)));
  staging_.push_back(std::move(grown));
  return absl::OkStatus();
}

absl::Status DevicePromptReading::EnqueueAhead() {
  if (run_->done()) return absl::OkStatus();
  Block block;
  ASSIGN_OR_RETURN(block.done, cuda::Event::Create());
  ASSIGN_OR_RETURN(const DevicePrefillRun::Event event, run_->Step());
  block.kind = event == DevicePrefillRun::Event::kLayerDone ? Event::kLayerDone : Event::kBlockDone;
  RETURN_IF_ERROR(block.done.Record(engine_.stream()));
  ahead_ = std::move(block);
  return absl::OkStatus();
}

absl::StatusOr<PromptReading::Event> DevicePromptReading::Step() {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  if (!ahead_) RETURN_IF_ERROR(EnqueueAhead());
  const Block block = *std::exchange(ahead_, std::nullopt);
  if (block.kind == Event::kLayerDone) {
    // The next block overwrites the layer: it waits until Compress has enqueued what reads it.
    finished_ = run_->finished_layer();
  } else {
    RETURN_IF_ERROR(EnqueueAhead());
  }
  RETURN_IF_ERROR(block.done.Wait("prefill step"));
  ++num_blocks_done_;
  return block.kind;
}

absl::StatusOr<CompactLayer> DevicePromptReading::Compress(size_t, const TakeFrames& take_frames) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  RETURN_IF_ERROR(compressor_->Compress(finished_));
  const CompactDeviceLayer& compact = compressor_->compact();
  const size_t num_frames = compact.most_frames();
  std::vector<FrameStaging::BlockPtr> frames;
  if (num_frames > 0) frames = take_frames(num_frames);
  std::byte* staging = staging_.back().data();
  absl::Status status =
      frames.empty() ? compact.CopyToHost(staging) : compact.LayIntoFrames(frames, staging);
  status.Update(copied_.Record(engine_.stream()));
  if (status.ok()) {
    status = EnqueueAhead();
    status.Update(copied_.Wait("compression"));
  } else {
    cudaStreamSynchronize(engine_.stream());
  }
  RETURN_IF_ERROR(status);  // only now, when the frames can go to others
  return frames.empty() ? compact.FromCopy(staging) : compact.FromFrames(frames, staging);
}

absl::StatusOr<Array<float>> DevicePromptReading::Logits(size_t) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  ASSIGN_OR_RETURN(const float* logits, run_->Logits());
  Array<float> copied(engine_.model().config().vocab_tokens);
  RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(copied.data(), logits, copied.num_bytes(),
                                             cudaMemcpyDeviceToHost, engine_.stream()),
                             "copy of logits"));
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(engine_.stream()), "logits"));
  return copied;
}

}  // namespace kvship::cuda
