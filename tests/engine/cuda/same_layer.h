// A layer's compact form from a GPU beside the CPU's.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "compress/compressor.h"
#include "compress/cuda/compact_device_layer.h"

namespace kvship::cuda {

// Waits for the device.
inline CompactLayer ToHost(const CompactDeviceLayer& compact) {
  std::vector<std::byte> copied(compact.most_copied_bytes());
  EXPECT_EQ(compact.CopyToHost(copied.data()), absl::OkStatus());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return compact.FromCopy(copied.data());
}

// Ascending, of the prefix.
inline std::vector<int32_t> PositionsOf(const CompactLayer& layer, const HeadBytes& head) {
  std::vector<int32_t> positions(head.num_positions);
  if (!positions.empty()) {
    std::memcpy(positions.data(), layer.bytes.data() + head.positions_offset,
                positions.size() * sizeof(int32_t));
  }
  EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
  return positions;
}

inline size_t NumShared(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> shared;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(shared));
  return shared.size();
}

// Scores are float32 on both sides, added up in another order: at the boundary one token may
// differ, and where heads share their places be another head's.
inline void ExpectTheSameLayer(const KvPlan& plan, const CompactLayer& host,
                               const CompactLayer& device) {
  ASSERT_EQ(device.layer, host.layer);
  ASSERT_EQ(device.kept_tokens.size(), host.kept_tokens.size());
  const LayerLayout layout = LayoutOf(plan, device.kept_tokens);
  const LayerLayout host_layout = LayoutOf(plan, host.kept_tokens);
  ASSERT_EQ(device.bytes.num_bytes(), layout.num_bytes);
  for (size_t h = 0; h < plan.num_heads; ++h) {
    SCOPED_TRACE(testing::Message() << "head " << h);
    EXPECT_NEAR(device.retained_mass[h], host.retained_mass[h], 1e-3);
    EXPECT_NEAR(device.chosen_mass[h], host.chosen_mass[h], 1e-3);
    const HeadBytes& head = layout.heads[h];
    const HeadBytes& host_head = host_layout.heads[h];
    const std::vector<int32_t> positions = PositionsOf(device, head);
    const std::vector<int32_t> wanted = PositionsOf(host, host_head);
    const size_t shared = NumShared(positions, wanted);
    if (!plan.bounded) {
      EXPECT_EQ(device.kept_tokens[h], host.kept_tokens[h]);
    }
    EXPECT_GE(shared + 1, std::max(positions.size(), wanted.size()));
    if (shared < std::max(positions.size(), wanted.size())) continue;
    EXPECT_EQ(std::memcmp(device.bytes.data() + head.pages_offset,
                          host.bytes.data() + host_head.pages_offset,
                          head.num_pages * PageBytes(plan.format, plan.head_dim)),
              0);
  }
  EXPECT_EQ(std::memcmp(device.bytes.data() + layout.tails_offset,
                        host.bytes.data() + host_layout.tails_offset,
                        plan.num_kv_heads * layout.tail_bytes),
            0);
}

inline size_t TokensOf(const CompactLayer& layer) {
  return std::accumulate(layer.kept_tokens.begin(), layer.kept_tokens.end(), size_t{0});
}

}  // namespace kvship::cuda
