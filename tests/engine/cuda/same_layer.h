// A layer's compact form from a GPU beside the CPU's.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "compress/compressor.h"

namespace kvship::cuda {

// Scores are float32 on both sides, added up in another order: at the boundary one token may
// differ.
inline void ExpectTheSameLayer(const KvPlan& plan, const Compressor::Result& host,
                               const std::vector<std::byte>& bytes,
                               const std::vector<float>& masses) {
  const LayerLayout layout = LayoutOf(plan, host.compact.kept_tokens);
  ASSERT_EQ(bytes.size(), host.compact.bytes.num_bytes());
  const size_t heads = plan.num_heads, head_bytes = layout.tails_offset / heads;
  for (size_t h = 0; h < heads; ++h) {
    SCOPED_TRACE(h);
    EXPECT_NEAR(masses[h], host.compact.retained_mass[h], 1e-3);
    EXPECT_NEAR(masses[heads + h], host.compact.chosen_mass[h], 1e-3);
    std::vector<int32_t> positions(layout.heads[h].num_positions);
    std::memcpy(positions.data(), &bytes[layout.heads[h].positions_offset],
                positions.size() * sizeof(int32_t));
    EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
    const std::set<int32_t> kept(host.positions[h].begin(), host.positions[h].end());
    size_t shared = 0;
    for (int32_t position : positions) shared += kept.count(position);
    EXPECT_GE(shared + 1, positions.size());
    if (shared < positions.size()) continue;
    EXPECT_EQ(
        std::memcmp(&bytes[h * head_bytes], host.compact.bytes.data() + h * head_bytes, head_bytes),
        0);
  }
  EXPECT_EQ(std::memcmp(bytes.data() + layout.tails_offset,
                        host.compact.bytes.data() + layout.tails_offset, heads * layout.tail_bytes),
            0);
}

}  // namespace kvship::cuda
