// A layer that is laid into frames on a GPU, against the same layer by way of the host.
#include "compress/cuda/compact_device_layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/crc32c.h"
#include "kernels/cuda/frame_memory.h"
#include "kv/compression_options.h"
#include "tests/engine/cuda/same_layer.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr KvShape kShape = {
    .num_layers = 2, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 64};

class CompactDeviceLayerTest : public DeviceTest {
 protected:
  // A layer of `compression` with random pages.
  static CompactDeviceLayer Layer(const char* compression, size_t num_tokens) {
    const KvPlan plan = MakePlan(ParseCompression(compression).value(), kShape, num_tokens).value();
    auto layer = CompactDeviceLayer::Create(plan, /*stream=*/nullptr);
    EXPECT_TRUE(layer.ok()) << layer.status();
    layer->Begin(1);
    const std::vector<std::byte> pages =
        RandomBytes(layer->most_pages() * PageBytes(plan.format, plan.head_dim), /*seed=*/5);
    EXPECT_EQ(cudaMemcpy(layer->pages(), pages.data(), pages.size(), cudaMemcpyHostToDevice),
              cudaSuccess);
    return *std::move(layer);
  }
};

TEST_F(CompactDeviceLayerTest, FramesHoldWhatGoesThroughTheHost) {
  const auto staging = CreateFrameStaging(0, 8).value();
  const CompactDeviceLayer layer = Layer("scorer=keep_all,encoder=f16", 5000);
  const CompactLayer wanted = ToHost(layer);
  ASSERT_EQ(layer.most_frames(), 3);
  const auto blocks = staging->Take(layer.most_frames());
  std::vector<std::byte> copied(layer.most_copied_bytes());
  ASSERT_EQ(layer.LayIntoFrames(blocks, copied.data()), absl::OkStatus());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const CompactLayer staged = layer.FromFrames(blocks, copied.data());
  EXPECT_EQ(staged.layer, 1);
  EXPECT_EQ(staged.kept_tokens, wanted.kept_tokens);
  EXPECT_EQ(staged.num_bytes(), wanted.bytes.num_bytes());
  std::span<const std::byte> left = wanted.bytes.bytes();
  for (const StagedFrame& frame : staged.frames) {
    const auto bytes = frame.block->Download(frame.num_bytes).value();
    EXPECT_TRUE(std::ranges::equal(bytes, left.first(bytes.size())));
    EXPECT_EQ(frame.crc32c, Crc32c(bytes));
    EXPECT_EQ(frame.block->Checksum(frame.num_bytes).value(), frame.crc32c);
    left = left.subspan(bytes.size());
  }
  EXPECT_TRUE(left.empty());
}

TEST_F(CompactDeviceLayerTest, ALayerOfTooManyFramesGoesThroughTheHost) {
  EXPECT_EQ(Layer("scorer=keep_all,encoder=f16", 130'000).most_frames(), 64);
  EXPECT_EQ(Layer("scorer=keep_all,encoder=f16", 132'000).most_frames(), 0);
}

}  // namespace
}  // namespace kvship::cuda
