// CompactDeviceLayer is one layer of a compact cache in a GPU's memory: CompactLayer before its
// heads' counts are known to the host. It takes the room of the plan's largest layer. It goes to
// the host whole, as much as the plan bounds a layer to, counts included; or it is laid into frames
// on the device, and its counts and checksums alone go. Either way the host waits for one copy and
// for nothing before it.
//
// One per request; belongs to one thread and one stream. Its operations enqueue and return at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/frame_staging.h"
#include "kernels/cuda/buffer.h"
#include "kv/compact_layer.h"
#include "kv/plan.h"

namespace kvship::cuda {

class CompactDeviceLayer {
 public:
  // Bytes of device memory that one takes.
  static size_t BytesFor(const KvPlan& plan) { return TotalBytes(Sizes(plan)); }

  // Where the plan keeps the whole prompt, positions and masses are there already.
  // ResourceExhausted if the device has no more memory.
  static absl::StatusOr<CompactDeviceLayer> Create(const KvPlan& plan, cudaStream_t stream);

  // What follows is of this layer; memory is that of the one before.
  void Begin(size_t layer);

  // In device memory, of the kept tokens but those of the tails, head after head:
  // [H + 1], head h's tokens being [offsets[h], offsets[h + 1]); there already unless plan.bounded.
  int32_t* offsets() const;
  int32_t* positions() const { return At<int32_t>(0); }  // [offsets[H]], ascending per head
  std::byte* pages() const { return At<std::byte>(parts_.pages); }  // as GatherPages() lays them
  size_t most_pages() const { return parts_.num_pages; }
  float* masses() const { return At<float>(parts_.masses); }  // [2, H]: retained, then chosen

  // Tokens, per head, that lie in the tails: offsets [H + 1] and positions [H, tail_tokens], which
  // are always the prompt's last; and their pages, the same for every head.
  const int32_t* tail_offsets() const { return tail_tokens_.as<int32_t>(); }
  const int32_t* tail_positions() const { return tail_offsets() + plan_.num_heads + 1; }
  std::byte* tails() const { return At<std::byte>(parts_.tails); }

  // What of any layer is copied to the host, at most.
  size_t most_copied_bytes() const { return most_copied_bytes_; }
  // Enqueues the layer's copy to the host; into pinned memory it overlaps with what follows.
  absl::Status CopyToHost(std::byte* copied) const;
  // The layer out of that copy, once it has arrived, and before the next one begins.
  CompactLayer FromCopy(const std::byte* copied) const;

  // Frames that the layer may take; 0: so many that it has to go through the host.
  size_t most_frames() const;
  // Enqueues the laying of the layer into most_frames() blocks of this GPU's memory, and a copy of
  // what tells of them.
  absl::Status LayIntoFrames(std::span<const FrameStaging::BlockPtr> blocks,
                             std::byte* copied) const;
  // As FromCopy; blocks that the layer did not need are let go.
  CompactLayer FromFrames(std::span<const FrameStaging::BlockPtr> blocks,
                          const std::byte* copied) const;

 private:
  // Byte offsets of a layer's parts in memory_, behind its positions.
  struct Parts {
    size_t masses = 0;
    size_t tails = 0;
    size_t pages = 0;
    size_t end = 0;
    size_t num_pages = 0;
  };

  CompactDeviceLayer(const KvPlan& plan, cudaStream_t stream) : plan_(plan), stream_(stream) {}

  static Parts PartsOf(const KvPlan& plan, size_t layer);
  static BufferSizes<CompactDeviceLayer> Sizes(const KvPlan& plan);
  CompactLayer Heads(const std::byte* offsets, const std::byte* masses) const;
  // Positions of a whole prompt need not be sent.
  size_t first_copied(const Parts& parts) const { return plan_.keeps_whole ? parts.masses : 0; }
  absl::Status Copy(std::byte* to, const void* from, size_t num_bytes) const;
  absl::Status Fill(int32_t* to, const std::vector<int32_t>& numbers);
  absl::Status FillOffsets();
  absl::Status FillTailTokens();
  absl::Status FillWhole();
  template <class T>
  T* At(size_t offset) const {
    return reinterpret_cast<T*>(memory_.data() + offset);
  }

  KvPlan plan_;
  cudaStream_t stream_;
  size_t layer_ = 0;
  Parts parts_;
  size_t most_copied_bytes_ = 0;
  DeviceBuffer memory_;
  DeviceBuffer offsets_;      // [L, H + 1], or one row where plan.bounded
  DeviceBuffer tail_tokens_;  // offsets, then positions
  DeviceBuffer remainders_;   // of the layer's frames, [kMostLaidFrames, kFrameTiles]
};

}  // namespace kvship::cuda
