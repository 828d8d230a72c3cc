// FrameHeader announces one frame: a piece of a request's bytes that crosses the wire at once, with
// the checksum of its payload. Plain data, shared by kv/, which cuts and checks frames, and
// transport/, which moves them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvship {

// The largest frame: far below the 4 MiB that a gRPC receiver accepts by default, and large enough
// that the cost per message is negligible.
inline constexpr size_t kMostFrameBytes = size_t{1} << 20;
// Frames that `num_bytes` are cut into, all but the last one of kMostFrameBytes.
constexpr size_t NumFrames(size_t num_bytes) {
  return (num_bytes + kMostFrameBytes - 1) / kMostFrameBytes;
}

struct FrameHeader {
  uint32_t sequence = 0;  // counts the request's frames from 0
  uint32_t layer = 0;
  uint64_t offset = 0;  // of the payload in the layer's bytes
  uint32_t num_bytes = 0;
  uint32_t crc32c = 0;  // of the payload

  bool operator==(const FrameHeader&) const = default;
};

// A payload as it lies in a receiver's memory: in one or more pieces, read in place.
using BytePieces = std::span<const std::span<const std::byte>>;

}  // namespace kvship
