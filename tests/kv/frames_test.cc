#include "kv/frames.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>

#include "base/random.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr KvShape kShape = {
    .num_layers = 3, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 8};
constexpr size_t kPromptTokens = 200;
constexpr size_t kBudget = 40;
constexpr size_t kFrameBytes = 1500;

std::array<std::span<const std::byte>, 1> WholePiece(const Frame& frame) {
  return {frame.payload.bytes};
}

class FramesTest : public ::testing::Test {
 protected:
  FramesTest() {
    plan_ = *MakePlan(*ParseCompression("budget_tokens=40,window=8"), kShape, kPromptTokens);
    cache_ = *SequenceCache::Reserve(*pool_, kShape, plan_, 32, PageFormat::kF16);
  }

  // A layer whose heads keep every fifth token and whose pages are random.
  CompactLayer RandomLayer(size_t layer) {
    CompactLayer compact;
    compact.layer = layer;
    compact.kept_tokens.assign(2, kBudget);
    compact.retained_mass = {0.75f, 0.5f};
    compact.chosen_mass = {0.5f, 0.25f};
    const LayerLayout layout = LayoutOf(plan_, compact.kept_tokens);
    compact.bytes = Buffer(layout.num_bytes);
    for (size_t i = 0; i < layout.num_bytes; ++i) {
      compact.bytes.data()[i] = static_cast<std::byte>(RandomBits(layer, i));
    }
    for (const HeadBytes& head : layout.heads) {
      for (size_t i = 0; i < kBudget; ++i) {
        const int32_t position = static_cast<int32_t>(5 * i);
        std::memcpy(compact.bytes.data() + head.positions_offset + i * 4, &position, 4);
      }
    }
    return compact;
  }

  std::vector<LayerFrames> CutAll() {
    FrameCutter cutter(kFrameBytes);
    std::vector<LayerFrames> layers;
    for (size_t layer = 0; layer < kShape.num_layers; ++layer) {
      layers.push_back(cutter.Cut(RandomLayer(layer)));
    }
    manifest_ = cutter.Finish(kPromptTokens);
    return layers;
  }

  // The first error of receiving everything.
  absl::Status Receive(const std::vector<LayerFrames>& layers, const KvManifest& manifest) {
    CacheReceiver receiver(*cache_);
    for (const LayerFrames& layer : layers) {
      if (absl::Status status = receiver.BeginLayer(layer.header); !status.ok()) return status;
      for (const Frame& frame : layer.frames) {
        absl::Status status = receiver.AddFrame(frame.header, WholePiece(frame));
        if (!status.ok()) return status;
      }
    }
    absl::Status status = receiver.Finish(manifest);
    EXPECT_EQ(receiver.finished(), status.ok());
    return status;
  }

  void ExpectFault(const std::vector<LayerFrames>& layers, const std::string& what) {
    const absl::Status status = Receive(layers, manifest_);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }

  std::unique_ptr<KvPool> pool_ = *KvPool::Create(8 * KvPool::kSlabBytes);
  KvPlan plan_;
  std::unique_ptr<SequenceCache> cache_;
  KvManifest manifest_;
};

TEST_F(FramesTest, WhatWasCutArrives) {
  const std::vector<LayerFrames> layers = CutAll();
  ASSERT_TRUE(Receive(layers, manifest_).ok());
  const CompactLayer original = RandomLayer(2);
  const LayerLayout layout = LayoutOf(plan_, original.kept_tokens);
  std::vector<PagedHead> heads;
  cache_->AppendPagedHeads(2, 0, &heads);
  EXPECT_EQ(cache_->positions(1).back(), static_cast<int32_t>(5 * (kBudget - 1)));
  const size_t page_bytes = PageBytes(plan_.format, plan_.head_dim);
  EXPECT_EQ(0, std::memcmp(heads[1].prefix_pages[1],
                           original.bytes.data() + layout.heads[1].pages_offset + page_bytes,
                           page_bytes));
}

TEST_F(FramesTest, ThePlanBoundsTheBytesOfTheFrames) {
  CutAll();
  EXPECT_EQ(manifest_.total_bytes, plan_.wire_bytes());
}

TEST_F(FramesTest, PayloadsMayLieInPieces) {
  const std::vector<LayerFrames> layers = CutAll();
  CacheReceiver receiver(*cache_);
  for (const LayerFrames& layer : layers) {
    ASSERT_TRUE(receiver.BeginLayer(layer.header).ok());
    for (const Frame& frame : layer.frames) {
      const auto bytes = frame.payload.bytes;
      const size_t cut = bytes.size() / 3;
      const std::span<const std::byte> pieces[] = {bytes.first(cut), {}, bytes.subspan(cut)};
      ASSERT_TRUE(receiver.AddFrame(frame.header, pieces).ok());
    }
  }
  EXPECT_TRUE(receiver.Finish(manifest_).ok());
  ASSERT_EQ(receiver.layers().size(), 3u);
  EXPECT_EQ(receiver.layers()[2].kept_tokens, (std::vector<uint32_t>{kBudget, kBudget}));
  EXPECT_EQ(receiver.layers()[2].retained_mass[1], 0.5f);
}

// Device memory is memory that the pool's writer alone touches.
class StagedFramesTest : public FramesTest {
 protected:
  StagedFramesTest() {
    cache_ = *SequenceCache::Reserve(*device_pool_, kShape, plan_, 32, PageFormat::kF16);
  }

  ~StagedFramesTest() override { cache_ = nullptr; }

  size_t num_written_ = 0;
  std::vector<std::byte> memory_ = std::vector<std::byte>(8 * KvPool::kSlabBytes);
  const std::unique_ptr<KvPool> device_pool_ =
      *KvPool::CreateOver(memory_, [this](std::span<const KvPool::PageBytes> copies) {
        for (const auto& copy : copies) {
          std::memcpy(copy.to, copy.from.data(), copy.from.size());
          num_written_ += copy.from.size();
        }
        return absl::OkStatus();
      });
};

TEST_F(StagedFramesTest, AreCopiedByThePoolPositionsToo) {
  const std::vector<LayerFrames> layers = CutAll();
  CacheReceiver receiver(*cache_);
  for (const LayerFrames& layer : layers) {
    ASSERT_TRUE(receiver.BeginLayer(layer.header).ok());
    for (const Frame& frame : layer.frames) {
      ASSERT_TRUE(receiver.AddStagedFrame(frame.header, frame.payload.bytes.data()).ok());
    }
  }
  EXPECT_TRUE(receiver.Finish(manifest_).ok());
  EXPECT_EQ(num_written_, manifest_.total_bytes);
  EXPECT_EQ(cache_->positions(1).back(), static_cast<int32_t>(5 * (kBudget - 1)));
}

TEST_F(StagedFramesTest, HaveToFitAsOthers) {
  const std::vector<LayerFrames> layers = CutAll();
  CacheReceiver receiver(*cache_);
  ASSERT_TRUE(receiver.BeginLayer(layers[0].header).ok());
  FrameHeader header = layers[0].frames[0].header;
  header.num_bytes = kFrameBytes * 10;
  const absl::Status status =
      receiver.AddStagedFrame(header, layers[0].frames[0].payload.bytes.data());
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes; wanted 1 to"));
  EXPECT_EQ(num_written_, 0);
}

TEST_F(FramesTest, AMissingFrameIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[1].frames.erase(layers[1].frames.begin() + 1);
  ExpectFault(layers, "came; wanted");
}

TEST_F(FramesTest, ADuplicateFrameIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].frames.insert(layers[0].frames.begin(), layers[0].frames[0]);
  ExpectFault(layers, "frame 0 came; wanted 1");
}

TEST_F(FramesTest, FramesOutOfOrderAreSeen) {
  std::vector<LayerFrames> layers = CutAll();
  std::swap(layers[0].frames[0], layers[0].frames[1]);
  ExpectFault(layers, "frame 1 came; wanted 0");
}

TEST_F(FramesTest, AFrameOfAnotherLayerIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[1].frames[0].header.layer = 0;
  ExpectFault(layers, "of layer 0 came; wanted 1");
}

TEST_F(FramesTest, AnOverlapIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].frames[1].header.offset -= 1;
  ExpectFault(layers, "at offset 1499 came; wanted 1500");
}

TEST_F(FramesTest, AnOffsetThatWrapsIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].frames[1].header.offset = std::numeric_limits<uint64_t>::max() - 10;
  ExpectFault(layers, "at offset");
}

TEST_F(FramesTest, AFrameLongerThanItsLayerIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  Frame& last = layers[0].frames.back();
  last.header.num_bytes = kFrameBytes * 10;
  ExpectFault(layers, "bytes; wanted 1 to");
}

TEST_F(FramesTest, APayloadOfAnotherLengthIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  auto& bytes = layers[0].frames[0].payload.bytes;
  bytes = bytes.first(bytes.size() - 1);
  ExpectFault(layers, "bytes 1499 came; wanted 1500");
}

TEST_F(FramesTest, ATurnedBitIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  std::vector<std::byte> copy(layers[2].frames[0].payload.bytes.begin(),
                              layers[2].frames[0].payload.bytes.end());
  copy[700] ^= std::byte{4};
  layers[2].frames[0].payload.bytes = copy;
  ExpectFault(layers, "checksum");
}

TEST_F(FramesTest, ALayerThatDoesNotFitThePlanIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].header.kept_tokens = {kBudget, kBudget + 1};
  ExpectFault(layers, "the plan has");
}

TEST_F(FramesTest, ALayerOfAnotherLengthIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].header.num_bytes += 1;
  ExpectFault(layers, "bytes of layer 0:");
}

TEST_F(FramesTest, AnUnfinishedLayerIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].frames.pop_back();
  ExpectFault(layers, "of the layer before");
}

TEST_F(FramesTest, AMissingLayerIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers.pop_back();
  ExpectFault(layers, "layers before the manifest: 2 came; wanted 3");
}

TEST_F(FramesTest, AMassThatIsNoShareIsSeen) {
  std::vector<LayerFrames> layers = CutAll();
  layers[0].header.retained_mass[1] = 1.01f;
  ExpectFault(layers, "retained_mass of 1.01");
  layers = CutAll();
  layers[0].header.chosen_mass.pop_back();
  ExpectFault(layers, "chosen_mass");
}

TEST_F(FramesTest, AnOverflowOfTheModelIsNoFaultOfTheNode) {
  LayerHeader header = CutAll()[0].header;
  header.chosen_mass[1] = std::numeric_limits<float>::quiet_NaN();
  CacheReceiver receiver(*cache_);
  const absl::Status status = receiver.BeginLayer(header);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("chosen_mass of layer 0 head 1 is not a number: the model's activations"));
  EXPECT_EQ(receiver.Finish({}), status);
}

TEST_F(FramesTest, PositionsThatDoNotAscendAreSeen) {
  FrameCutter cutter(kFrameBytes);
  std::vector<LayerFrames> layers;
  for (size_t layer = 0; layer < kShape.num_layers; ++layer) {
    CompactLayer compact = RandomLayer(layer);
    if (layer == 1) {
      const int32_t position = 3;
      std::memcpy(compact.bytes.data() + 8, &position, 4);
    }
    layers.push_back(cutter.Cut(std::move(compact)));
  }
  manifest_ = cutter.Finish(kPromptTokens);
  ExpectFault(layers, "keeps position 3 after 5");
}

TEST_F(FramesTest, PositionsPastThePromptAreSeen) {
  FrameCutter cutter(kFrameBytes);
  std::vector<LayerFrames> layers;
  for (size_t layer = 0; layer < kShape.num_layers; ++layer) {
    CompactLayer compact = RandomLayer(layer);
    if (layer == 2) {
      const int32_t position = kPromptTokens;
      std::memcpy(compact.bytes.data() + (kBudget - 1) * 4, &position, 4);
    }
    layers.push_back(cutter.Cut(std::move(compact)));
  }
  manifest_ = cutter.Finish(kPromptTokens);
  ExpectFault(layers, "keeps position 200");
}

TEST_F(FramesTest, AnyOtherManifestIsSeen) {
  const std::vector<LayerFrames> layers = CutAll();
  const std::vector<std::function<void(KvManifest&)>> changes = {
      [](KvManifest& m) { ++m.prompt_tokens; }, [](KvManifest& m) { --m.next_position; },
      [](KvManifest& m) { ++m.num_frames; }, [](KvManifest& m) { --m.total_bytes; },
      [](KvManifest& m) { m.digest[31] ^= std::byte{1}; }};
  for (const auto& change : changes) {
    cache_ = *SequenceCache::Reserve(*pool_, kShape, plan_, 32, PageFormat::kF16);
    KvManifest changed = manifest_;
    change(changed);
    const absl::Status status = Receive(layers, changed);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("manifest's"));
  }
}

TEST_F(FramesTest, TheFirstFaultStays) {
  const std::vector<LayerFrames> layers = CutAll();
  CacheReceiver receiver(*cache_);
  ASSERT_TRUE(receiver.BeginLayer(layers[0].header).ok());
  EXPECT_FALSE(receiver.AddFrame(layers[0].frames[1].header, WholePiece(layers[0].frames[1])).ok());
  EXPECT_FALSE(receiver.AddFrame(layers[0].frames[0].header, WholePiece(layers[0].frames[0])).ok());
  EXPECT_THAT(std::string(receiver.Finish(manifest_).message()), HasSubstr("frame 1 came"));
}

}  // namespace
}  // namespace kvship
