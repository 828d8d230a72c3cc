// PromptReader reads prompts on the CPU (HostPromptReader) or one GPU (cuda::DevicePromptReader). A
// PromptReading runs one prompt, or a pack of several short ones, through it layer by layer and
// returns each finished layer in compact form. Readings take turns. Readings and their reader
// belong to the engine thread, except the reader's constants, Check and BytesFor.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "base/frame_staging.h"
#include "engine/model_config.h"
#include "kv/compact_layer.h"
#include "prefill_service/prefill_task.h"

namespace kvship {

// Returns device memory for `num_frames` frames of a layer; none if it must go through the host.
using TakeFrames = std::function<std::vector<FrameStaging::BlockPtr>(size_t num_frames)>;

// One run of the reader. An error of Step, Compress or Logits ends the reading: ResourceExhausted
// if out of memory, else what the kernels refuse or the device reports.
class PromptReading {
 public:
  enum class Event { kBlockDone, kLayerDone };

  virtual ~PromptReading() = default;

  // Computes the next block of queries of one layer. Must not be called once done().
  virtual absl::StatusOr<Event> Step() = 0;

  // Returns the layer's compact form. Call after kLayerDone and before the next Step, at most once
  // per prompt. On a device the bytes may be in frames from `take_frames`.
  virtual absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames& take_frames) = 0;

  virtual bool done() const = 0;
  // The share of the work done, in [0, 1].
  virtual double fraction() const = 0;

  // Prefix cache hit: tokens at the start of a prompt that are not read anew.
  virtual size_t reused_tokens(size_t prompt) const = 0;

  // Returns the logits [vocab] after the last token of a prompt. Call once done().
  virtual absl::StatusOr<Array<float>> Logits(size_t prompt) = 0;
};

class PromptReader {
 public:
  virtual ~PromptReader() = default;

  virtual const ModelConfig& config() const = 0;
  // The most tokens of prompts packed into one reading; 0: no packing.
  virtual size_t pack_tokens() const = 0;
  // Returns OK if the task can be read here. Any thread may call it. FailedPrecondition, with
  // reason kDeviceMismatch, naming field, value and what is wanted.
  virtual absl::Status Check(const PrefillTask& task) const = 0;

  // Bytes that the reading of a task holds while paused; Check must have passed the task. Any
  // thread may call it.
  virtual size_t BytesFor(const PrefillTask& task) const = 0;

  // Bytes in the prefix cache.
  virtual size_t prefix_cache_bytes() const = 0;
  // Tokens of a task that a reading begun now would reuse; Check must have passed the task.
  virtual size_t CountReusable(const PrefillTask& task) const = 0;

  // Call after a failed step: Internal if the device is lost and no later step can succeed.
  virtual absl::Status CheckDevice() { return absl::OkStatus(); }

  // Starts reading `tasks`, at least one; borrows none of them. InvalidArgument if options are
  // incompatible, ResourceExhausted if the device has no room.
  virtual absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) = 0;
};

}  // namespace kvship
