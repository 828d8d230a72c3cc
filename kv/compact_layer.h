// CompactLayer is one layer of a compact cache in its wire layout. For each head in turn, the bytes
// hold the positions of the kept tokens (int32, ascending; omitted if the whole prompt is kept),
// then the head's pages (kernels/page_layout.h), the last page padded with zeros. If the plan has
// tail_tokens, the pages of those last tokens follow, one KV head after another, and no head's
// prefix contains them. docs/wire.md shows the layout byte by byte. The bytes are either in host
// memory or cut into frames in GPU memory. Movable; owned by one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/frame_staging.h"
#include "kv/plan.h"

namespace kvship {

// One frame of a layer in device memory: kMostFrameBytes, or fewer in the layer's last frame.
struct StagedFrame {
  FrameStaging::BlockPtr block;
  uint32_t num_bytes = 0;
  uint32_t crc32c = 0;
};

struct CompactLayer {
  size_t layer = 0;
  std::vector<uint32_t> kept_tokens;  // per head; includes the plan's tail_tokens
  // Per head, the share of the window's attention that falls on kept tokens: retained_mass counts
  // all attention, chosen_mass only attention to the middle of the prompt. The sinks and recent
  // tokens, which chosen_mass leaves out, often hold most of the attention.
  std::vector<float> retained_mass;
  std::vector<float> chosen_mass;
  Buffer bytes;  // empty if the layer is in `frames`
  std::vector<StagedFrame> frames;

  size_t num_bytes() const {
    size_t sum = bytes.num_bytes();
    for (const StagedFrame& frame : frames) sum += frame.num_bytes;
    return sum;
  }
};

// Where the parts of one head's prefix lie in a layer's bytes.
struct HeadBytes {
  size_t positions_offset = 0;
  size_t num_positions = 0;  // 0 if the whole prompt is kept
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
