// Makes frames of a compact cache in device memory: a layer in its wire layout (docs/wire.md), and
// the frames' checksums, so that caches go from GPU to GPU without passing the host.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/crc32c.h"
#include "base/frame_header.h"

namespace kvship::cuda {

inline constexpr size_t kFrameTiles = NumCrc32cTiles(kMostFrameBytes);
// Limits of one layer; larger ones go through the host.
inline constexpr size_t kMostLaidFrames = 64;
inline constexpr size_t kMostLaidHeads = 256;

// Writes a layer into frames of kMostFrameBytes, the last one shorter: per head its positions, then
// its pages; then all tails. Also writes the remainders of each frame's tiles, for Crc32cOfTiles().
// Memory: device memory, all aligned to 4 bytes; frames that the layer does not reach stay
// unchanged. Errors: InvalidArgument for no heads or frames, more than kMostLaidHeads or
// kMostLaidFrames, or sizes that are no multiples of 4.
struct LayFramesArgs {
  const int32_t* offsets = nullptr;    // [H + 1]: head h has tokens offsets[h] to offsets[h + 1]
  const int32_t* positions = nullptr;  // [offsets[H]]; null: not on the wire
  const std::byte* pages = nullptr;    // [pages of all heads, page_bytes], as of GatherPages()
  const std::byte* tails = nullptr;    // [tail_bytes]
  size_t num_heads = 0;                // H
  size_t page_bytes = 0;
  size_t tail_bytes = 0;                                // of all heads together
  std::array<std::byte*, kMostLaidFrames> frames = {};  // [kMostFrameBytes] each
  size_t num_frames = 0;
  uint32_t* remainders = nullptr;  // [num_frames, kFrameTiles], a frame's last tile last
};
absl::Status LayFrames(cudaStream_t stream, const LayFramesArgs& args);

// The remainders of a frame's tiles, [NumCrc32cTiles(num_bytes)]. Errors: InvalidArgument unless
// num_bytes is a multiple of 4 from 4 to kMostFrameBytes.
absl::Status FrameRemainders(cudaStream_t stream, const std::byte* frame, size_t num_bytes,
                             uint32_t* remainders);

}  // namespace kvship::cuda
