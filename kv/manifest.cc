#include "kv/manifest.h"

#include <array>
#include <bit>

namespace kvship {

void FrameDigest::Add(uint32_t sequence, uint32_t num_bytes, uint32_t checksum) {
  static_assert(std::endian::native == std::endian::little);
  const std::array<uint32_t, 3> words = {sequence, num_bytes, checksum};
  sha_.Update(std::as_bytes(std::span(words)));
  ++num_frames_;
  total_bytes_ += num_bytes;
}

}  // namespace kvship
