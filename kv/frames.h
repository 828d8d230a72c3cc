// Frames carry a compact cache across the wire. Each layer is announced by a LayerHeader and cut
// into frames of at most 1 MiB; each frame has a checksum and a sequence number within the request.
// The manifest ends the transfer with a digest over all frames. FrameCutter makes frames;
// CacheReceiver checks them against the plan and writes them into a SequenceCache. docs/wire.md
// shows the bytes. Not thread safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "base/frame_header.h"
#include "kv/compact_layer.h"
#include "kv/manifest.h"
#include "kv/sequence.h"

namespace kvship {

struct LayerHeader {
  size_t layer = 0;
  // Per head, as in CompactLayer.
  std::vector<uint32_t> kept_tokens = {};
  std::vector<float> retained_mass = {};
  std::vector<float> chosen_mass = {};
  size_t num_bytes = 0;
};

// A frame's payload is either in host memory or in a block of device memory.
struct Frame {
  FrameHeader header;
  SharedBytes payload;
  FrameStaging::BlockPtr block;
};

// What is sent for one layer.
struct LayerFrames {
  LayerHeader header;
  std::vector<Frame> frames;
};

// Cuts the layers of one request into frames.
class FrameCutter {
 public:
  explicit FrameCutter(size_t most_frame_bytes = kMostFrameBytes)
      : most_frame_bytes_(most_frame_bytes) {}

  // The frames share ownership of the layer's bytes. A layer staged in device memory keeps the
  // frames it already has: most_frame_bytes does not apply to it.
  LayerFrames Cut(CompactLayer layer);

  // Returns the manifest; call it after the last layer.
  KvManifest Finish(size_t prompt_tokens);

  size_t total_bytes() const { return digest_.total_bytes(); }

 private:
  const size_t most_frame_bytes_;
  FrameHeader NextHeader(size_t layer, size_t offset, size_t num_bytes, uint32_t crc32c);

  FrameDigest digest_;
};

// Receives one request's layers and frames in order. Every check precedes the write it guards, so
// bytes from a faulty or malicious peer cannot land outside the cache's own pages. The first error
// is sticky: later calls return it again. The cache may be used only after Finish has returned OK.
class CacheReceiver {
 public:
  // `cache` is freshly reserved and must outlive the receiver.
  explicit CacheReceiver(SequenceCache& cache) : cache_(cache) {}

  // DataLoss, naming what came and what was wanted, if a part does not fit the plan or the parts
  // before it, or if a checksum or the digest differs. FailedPrecondition if a layer's masses are
  // NaN: the model's activations have overflowed.
  absl::Status BeginLayer(const LayerHeader& header);
  absl::Status AddFrame(const FrameHeader& header, BytePieces payload);
  // The payload is in the device memory of the cache's pool; the caller has verified its checksum.
  absl::Status AddStagedFrame(const FrameHeader& header, const std::byte* payload);
  absl::Status Finish(const KvManifest& manifest);

  bool finished() const { return finished_; }
  size_t num_bytes() const { return digest_.total_bytes(); }
  // The headers of the layers received so far.
  std::span<const LayerHeader> layers() const { return layers_; }

 private:
  absl::Status CheckLayer(const LayerHeader& header) const;
  absl::Status CheckHeader(const FrameHeader& header) const;
  absl::Status MayAdd(const FrameHeader& header);
  absl::Status Write(std::span<const std::byte> bytes, BytesIn memory);
  absl::Status CheckPositions() const;
  absl::Status CheckManifest(const KvManifest& manifest);
  absl::Status Keep(absl::Status status);

  SequenceCache& cache_;
  absl::Status fault_;
  FrameDigest digest_;
  std::vector<LayerHeader> layers_;  // begun so far
  size_t layer_bytes_ = 0;           // of the layer begun last
  size_t received_bytes_ = 0;        // of it, received so far
  bool finished_ = false;
};

}  // namespace kvship
