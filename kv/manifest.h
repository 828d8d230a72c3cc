// KvManifest ends the transfer of one compact cache: it states what was sent, with a digest over
// it. Plain data; the RPC edge converts it to protobuf.
#pragma once

#include <cstdint>

#include "base/sha256.h"

namespace kvship {

struct KvManifest {
  size_t prompt_tokens = 0;
  size_t next_position =
      0;  // of the first output token: the prompt's length, however few tokens were kept
  size_t num_frames = 0;
  size_t total_bytes = 0;
  Sha256Digest digest = {};

  bool operator==(const KvManifest&) const = default;
};

// Both sides add each frame in order; equal digests mean that both saw the same frames. SHA-256
// over (sequence, length, checksum) of each frame, as little-endian uint32.
class FrameDigest {
 public:
  void Add(uint32_t sequence, uint32_t num_bytes, uint32_t checksum);
  Sha256Digest Finish() { return sha_.Finish(); }

  size_t num_frames() const { return num_frames_; }
  size_t total_bytes() const { return total_bytes_; }

 private:
  Sha256 sha_;
  size_t num_frames_ = 0;
  size_t total_bytes_ = 0;
};

}  // namespace kvship
