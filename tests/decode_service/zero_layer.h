// A layer as a prefill node would send it, of a plan that keeps as much of every head: numbers that
// are zero, at positions that follow each other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kv/compact_layer.h"
#include "kv/plan.h"

namespace kvship {

inline CompactLayer ZeroLayer(const KvPlan& plan, size_t layer, int32_t first_position) {
  CompactLayer out;
  out.layer = layer;
  out.kept_tokens.assign(plan.num_heads,
                         static_cast<uint32_t>(plan.layer_tokens[layer] / plan.num_heads));
  out.retained_mass.assign(plan.num_heads, 0.5f);
  out.chosen_mass.assign(plan.num_heads, 0.25f);
  const LayerLayout layout = LayoutOf(plan, out.kept_tokens);
  out.bytes = Buffer(layout.num_bytes);
  std::fill(out.bytes.bytes().begin(), out.bytes.bytes().end(), std::byte{0});
  for (const HeadBytes& head : layout.heads) {
    auto* positions = reinterpret_cast<int32_t*>(out.bytes.data() + head.positions_offset);
    std::iota(positions, positions + head.num_positions, first_position);
  }
  return out;
}

}  // namespace kvship
