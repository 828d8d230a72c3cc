// PromptReader is where a prefill node reads prompts: the CPU (HostPromptReader) or one GPU
// (cuda::DevicePromptReader). A PromptReading carries one prompt through it layer by layer, or
// several short ones side by side, and gives each finished layer in its compact form. Readings take
// turns; they and their reader belong to the engine thread, but for the reader's constants, Check
// and BytesFor.
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

// Device memory for so many frames of a layer; none where it shall go through the host.
using TakeFrames = std::function<std::vector<FrameStaging::BlockPtr>(size_t num_frames)>;

// An error of Step, Compress or Logits ends the reading: ResourceExhausted if there is no memory
// left, else what the kernels refuse or the device reports.
class PromptReading {
 public:
  enum class Event { kBlockDone, kLayerDone };

  virtual ~PromptReading() = default;

  // Computes the next block of queries of one layer. Not to be called once done().
  virtual absl::StatusOr<Event> Step() = 0;

  // After kLayerDone, until the next Step, at most once per prompt: the layer's compact form; on a
  // device that has its bytes it may be in frames that were taken for it.
  virtual absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames& take_frames) = 0;

  virtual bool done() const = 0;
  // The share of the work that is done, in [0, 1].
  virtual double fraction() const = 0;

  // Of a prompt's tokens those, at its beginning, that are not read: they are known from another.
  virtual size_t reused_tokens(size_t prompt) const = 0;

  // Once done: the logits [vocab] after the last token of a prompt.
  virtual absl::StatusOr<Array<float>> Logits(size_t prompt) = 0;
};

class PromptReader {
 public:
  virtual ~PromptReader() = default;

  virtual const ModelConfig& config() const = 0;
  // Prompts of so many tokens together may be read side by side; 0: each by itself.
  virtual size_t pack_tokens() const = 0;
  // Whether the task can be read here. Any thread may ask. FailedPrecondition naming field, value
  // and what is wanted, with the reason kDeviceMismatch.
  virtual absl::Status Check(const PrefillTask& task) const = 0;

  // Bytes that the reading of a task that Check passes holds while it is paused. Any thread may
  // ask.
  virtual size_t BytesFor(const PrefillTask& task) const = 0;

  // Bytes of prompts' beginnings that are kept for others.
  virtual size_t prefix_cache_bytes() const = 0;
  // As many tokens of a task that Check passes as a reading that is begun now would reuse.
  virtual size_t CountReusable(const PrefillTask& task) const = 0;

  // After a step that failed: Internal if no later one can succeed, as the device is lost.
  virtual absl::Status CheckDevice() { return absl::OkStatus(); }

  // Begins to read `tasks`, at least one; borrows none of them. InvalidArgument if options do not
  // go together, ResourceExhausted if the device has no room.
  virtual absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) = 0;
};

}  // namespace kvship
