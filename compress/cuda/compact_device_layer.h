// CompactDeviceLayer is a CompactLayer in GPU memory whose head counts the host does not know yet.
// Its memory fits the plan's largest layer. The layer reaches the host in one of two ways: as one
// copy of the plan's maximum size, counts included, or laid into frames on the device, with only
// counts and checksums copied. Either way the host waits once, for the copies to complete.
//
// One per request; belongs to one thread and one stream. Operations enqueue and return at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
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
  // Bytes of device memory that one instance takes.
  static size_t BytesFor(const KvPlan& plan) { return TotalBytes(Sizes(plan)); }

  // If the plan keeps the whole prompt, this fills in positions and masses. ResourceExhausted if
  // the device is out of memory.
  static absl::StatusOr<CompactDeviceLayer> Create(const KvPlan& plan, cudaStream_t stream);

  // Begins a layer, which reuses the memory of the layer before.
  void Begin(size_t layer);

  // Device memory. Kept tokens outside the tails, head after head: head h has the tokens
  // [offsets[h], offsets[h + 1]), of offsets [H + 1]. Filled at creation unless plan.bounded.
  int32_t* offsets() const;
  int32_t* positions() const { return At<int32_t>(0); }  // [offsets[H]], ascending per head
  std::byte* pages() const { return At<std::byte>(parts_.pages); }  // in GatherPages()'s layout
  size_t most_pages() const { return parts_.num_pages; }
  float* masses() const { return At<float>(parts_.masses); }  // [2, H]: retained, then chosen

  // The tail tokens of each head, always the prompt's last: offsets [H + 1] and positions [H,
  // tail_tokens]; then their pages. The tokens are the same for every head.
  const int32_t* tail_offsets() const { return tail_tokens_.as<int32_t>(); }
  const int32_t* tail_positions() const { return tail_offsets() + plan_.num_heads + 1; }
  std::byte* tails() const { return At<std::byte>(parts_.tails); }

  // The most bytes of any layer that are copied to the host.
  size_t most_copied_bytes() const { return most_copied_bytes_; }
  // Enqueues a copy of the layer to the host; a copy into pinned memory overlaps with later work.
  absl::Status CopyToHost(std::byte* copied) const;
  // Makes the layer from that copy. Call it after the copy is complete and before the next Begin.
  CompactLayer FromCopy(const std::byte* copied) const;

  // The most frames that the layer takes; 0 if it has to go through the host.
  size_t most_frames() const;
  // Enqueues the kernel that lays the layer into most_frames() blocks of this GPU's memory, and a
  // copy of its counts and checksums.
  absl::Status LayIntoFrames(std::span<const FrameStaging::BlockPtr> blocks,
                             std::byte* copied) const;
  // As FromCopy. Unused blocks are released.
  CompactLayer FromFrames(std::span<const FrameStaging::BlockPtr> blocks,
                          const std::byte* copied) const;

 private:
  // Byte offsets of a layer's parts in memory_, after its positions.
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
  // Positions are not sent if the whole prompt is kept.
  size_t first_copied(const Parts& parts) const { return plan_.keeps_whole ? parts.masses : 0; }
  absl::Status Copy(std::byte* to, const void* from, size_t num_bytes) const;
  // Enqueues a copy of numbers that Keep has returned.
  absl::Status Fill(int32_t* to, const std::vector<int32_t>& numbers);
  const std::vector<int32_t>& Keep(std::vector<int32_t> numbers);
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
  // What copies that were enqueued may still read: CUDA need not have read pageable memory when
  // cudaMemcpyAsync returns.
  std::deque<std::vector<int32_t>> sources_;
  std::vector<float> whole_masses_;
};

}  // namespace kvship::cuda
