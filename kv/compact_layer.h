// CompactLayer is one layer of a compact cache in the form in which it crosses the wire: head after
// head, the positions of its kept tokens (int32, ascending; left out where the whole prompt is
// kept), then its pages (kernels/page_layout.h), the last one padded with zeros; then, where the
// plan has tail_tokens, KV head after KV head, the pages of those last tokens, which no head's
// prefix then has. docs/wire.md shows it byte by byte. Its bytes are in host memory, or have been
// cut into frames in a GPU's. Moves; owned by one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/frame_staging.h"
#include "kv/plan.h"

namespace kvship {

// kMostFrameBytes of a layer, or its last bytes, in device memory.
struct StagedFrame {
  FrameStaging::BlockPtr block;
  uint32_t num_bytes = 0;
  uint32_t crc32c = 0;
};

struct CompactLayer {
  size_t layer = 0;
  std::vector<uint32_t> kept_tokens;  // per head, the plan's tail_tokens included
  // Per head, the share of the window's attention that falls on kept tokens: of all attention, and
  // of that on the middle of the prompt, without sinks and recent tokens, which alone often hold
  // most of it.
  std::vector<float> retained_mass;
  std::vector<float> chosen_mass;
  Buffer bytes;  // empty where there are
  std::vector<StagedFrame> frames;

  size_t num_bytes() const {
    size_t sum = bytes.num_bytes();
    for (const StagedFrame& frame : frames) sum += frame.num_bytes;
    return sum;
  }
};

// Where each head's prefix parts lie in a layer's bytes.
struct HeadBytes {
  size_t positions_offset = 0;
  size_t num_positions = 0;  // 0 where the whole prompt is kept
  size_t pages_offset = 0;
  size_t num_pages = 0;
};

struct LayerLayout {
  std::vector<HeadBytes> heads;
  size_t tails_offset = 0;  // KV head h's tail pages are at tails_offset + h * tail_bytes
  size_t tail_bytes = 0;
  size_t num_bytes = 0;
};

// The layout of a layer whose heads keep `kept_tokens`, each at least the plan's tail_tokens.
LayerLayout LayoutOf(const KvPlan& plan, std::span<const uint32_t> kept_tokens);

}  // namespace kvship
