// A GPU as a prefill node sees it, against the CPU.
#include "prefill_service/cuda/device_prompt_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/cuda/device_pages.h"
#include "engine/prefill.h"
#include "kernels/cuda/frame_memory.h"
#include "kv/frames.h"
#include "kv/pool.h"
#include "kv/sequence.h"
#include "prefill_service/host_prompt_reader.h"
#include "rpc/errors.h"
#include "tests/engine/cuda/random_model.h"
#include "tests/engine/cuda/same_layer.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using ::testing::HasSubstr;
using Event = PromptReading::Event;

class DevicePromptReaderTest : public DeviceTest {
 protected:
  explicit DevicePromptReaderTest(const char* architecture = "llama")
      : random_(RopePairs::kHalves, architecture, /*num_experts=*/0, WeightFormat::kF16) {}

  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    auto created =
        DevicePromptReader::Create(random_.model(), 0, /*block_tokens=*/128, PrefixBytes());
    ASSERT_TRUE(created.ok()) << created.status();
    device_ = *std::move(created);
  }

  // For the beginnings of a few prompts.
  size_t PrefixBytes() const {
    return 4 * DevicePrefillEngine::PrefixBlockBytes(random_.model().config);
  }

  PrefillTask Task(size_t num_tokens, const char* compression) {
    PrefillTask task;
    task.tokens = random_.Prompt(num_tokens);
    task.compression = ParseCompression(compression).value();
    task.plan = MakePlan(task.compression, ShapeOf(random_.model().config), num_tokens).value();
    return task;
  }

  static std::unique_ptr<PromptReading> Begin(PromptReader& reader, const PrefillTask& task) {
    const PrefillTask* const tasks[] = {&task};
    auto reading = reader.Begin(tasks);
    EXPECT_TRUE(reading.ok()) << reading.status();
    return *std::move(reading);
  }

  static std::vector<FrameStaging::BlockPtr> NoFrames(size_t) { return {}; }

  // Steps to the end of the next layer.
  static CompactLayer NextLayer(PromptReading& reading, const TakeFrames& take_frames = NoFrames) {
    for (;;) {
      const auto event = reading.Step();
      EXPECT_TRUE(event.ok()) << event.status();
      if (!event.ok() || *event == Event::kLayerDone) break;
    }
    auto layer = reading.Compress(0, take_frames);
    EXPECT_TRUE(layer.ok()) << layer.status();
    return *std::move(layer);
  }

  // Positions that both keep of every head; elements are compared by tests of the operations.
  static void Compare(const PrefillTask& task, const CompactLayer& host,
                      const CompactLayer& device) {
    EXPECT_EQ(device.layer, host.layer);
    if (!task.plan.bounded) {
      EXPECT_EQ(device.kept_tokens, host.kept_tokens);
    }
    if (task.compression.allocator == "ada") {
      EXPECT_EQ(TokensOf(device), TokensOf(host));
    }
    const LayerLayout layout = LayoutOf(task.plan, device.kept_tokens);
    const LayerLayout host_layout = LayoutOf(task.plan, host.kept_tokens);
    ASSERT_EQ(device.bytes.num_bytes(), layout.num_bytes);
    for (size_t h = 0; h < host.kept_tokens.size(); ++h) {
      EXPECT_NEAR(device.retained_mass[h], host.retained_mass[h], 0.01);
      EXPECT_NEAR(device.chosen_mass[h], host.chosen_mass[h], 0.01);
      const std::vector<int32_t> wanted = PositionsOf(host, host_layout.heads[h]);
      const std::vector<int32_t> positions = PositionsOf(device, layout.heads[h]);
      EXPECT_GE(NumShared(positions, wanted) * 20, std::max(positions.size(), wanted.size()) * 19)
          << "head " << h;
    }
  }

  static void CompareLogits(PromptReading& host, PromptReading& device) {
    const auto wanted = host.Logits(0);
    const auto logits = device.Logits(0);
    ASSERT_TRUE(wanted.ok() && logits.ok());
    double difference = 0, norm = 0;
    for (size_t i = 0; i < wanted->size(); ++i) {
      difference += std::pow(double{(*logits)[i]} - (*wanted)[i], 2);
      norm += std::pow(double{(*wanted)[i]}, 2);
    }
    EXPECT_LT(std::sqrt(difference / norm), 0.01);  // f16, some tens of roundings
  }

  RandomModel random_;
  Backend backend_{2};
  HostPromptReader host_{random_.model(), backend_, {.arithmetic = Arithmetic::kFloat32}};
  std::unique_ptr<DevicePromptReader> device_;
};

TEST_F(DevicePromptReaderTest, GivesTheCpusLayersAndLogits) {
  for (const auto& [num_tokens, compression] :
       {std::pair{size_t{40}, "scorer=keep_all,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,softmax=prefix,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,sinks=4,allocator=pyramid,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,allocator=ada,encoder=f16"},
        std::pair{size_t{150},
                  "budget_tokens=60,window=16,allocator=ada,encoder=int4,"
                  "window_encoder=f16"},
        std::pair{size_t{150},
                  "budget_tokens=90,window=16,allocator=mass,mass_target=0.5,"
                  "encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,recent_tokens=20,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=100,window=80,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,selector=chunks,encoder=f16"},
        std::pair{size_t{150}, "scorer=knorm,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{150}, "scorer=streaming_llm,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{150}, "scorer=random,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{150}, "scorer=tova,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{150}, "scorer=keydiff,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{270}, "scorer=h2o,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{270}, "scorer=expected_attention,budget_tokens=60,window=16,encoder=f16"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,encoder=int4"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,recent_tokens=5,encoder=f32"},
        std::pair{size_t{150}, "budget_tokens=60,window=16,group_reduce=none,encoder=f16"},
        std::pair{size_t{270},
                  "budget_tokens=60,observe_begin=120,observe_end=140,recent_tokens=5,"
                  "encoder=f16"}}) {
    SCOPED_TRACE(compression);
    const PrefillTask task = Task(num_tokens, compression);
    ASSERT_TRUE(device_->Check(task).ok());
    const auto host = Begin(host_, task);
    const auto device = Begin(*device_, task);
    double fraction = 0;
    while (!host->done()) {
      Compare(task, NextLayer(*host), NextLayer(*device));
      EXPECT_GT(device->fraction(), fraction);
      fraction = device->fraction();
    }
    EXPECT_TRUE(device->done());
    EXPECT_EQ(fraction, 1);
    CompareLogits(*host, *device);
  }
}

TEST_F(DevicePromptReaderTest, APromptThatBeginsAsAnEarlierOneIsReadFromThere) {
  const PrefillTask first = Task(600, "budget_tokens=60,window=16,encoder=f16");
  PrefillTask second = Task(640, "budget_tokens=60,window=16,encoder=f16");
  std::copy_n(first.tokens.begin(), 550, second.tokens.begin());
  for (const auto& [task, num_reused] :
       {std::pair<const PrefillTask*, size_t>{&first, 0},
        std::pair<const PrefillTask*, size_t>{&second, 2 * kPrefixBlockTokens}}) {
    const auto host = Begin(host_, *task);
    const auto device = Begin(*device_, *task);
    EXPECT_EQ(device->reused_tokens(0), num_reused);
    while (!host->done()) {
      EXPECT_GE(device->fraction(), static_cast<double>(num_reused) / task->tokens.size());
      Compare(*task, NextLayer(*host), NextLayer(*device));
    }
    EXPECT_EQ(device->fraction(), 1);
    CompareLogits(*host, *device);
  }
  EXPECT_EQ(device_->prefix_cache_bytes(), PrefixBytes() / 2);
}

TEST_F(DevicePromptReaderTest, LayersWhoseHeadsDifferFitTheReservationTheyAreSentTo) {
  for (const char* compression : {"budget_tokens=60,window=16,allocator=ada,encoder=f16",
                                  "budget_tokens=60,window=16,allocator=mass,mass_target=0.4,"
                                  "encoder=int8,window_encoder=f16"}) {
    SCOPED_TRACE(compression);
    const PrefillTask task = Task(150, compression);
    const auto reading = Begin(*device_, task);
    const auto pool = KvPool::Create(8 * KvPool::kSlabBytes).value();
    const auto cache = SequenceCache::Reserve(*pool, ShapeOf(random_.model().config), task.plan, 1,
                                              PageFormat::kF16)
                           .value();
    FrameCutter cutter(/*most_frame_bytes=*/1000);
    CacheReceiver receiver(*cache);
    while (!reading->done()) {
      const LayerFrames layer = cutter.Cut(NextLayer(*reading));
      ASSERT_EQ(receiver.BeginLayer(layer.header), absl::OkStatus());
      for (const Frame& frame : layer.frames) {
        const std::span<const std::byte> piece = frame.payload.bytes;
        ASSERT_EQ(receiver.AddFrame(frame.header, {&piece, 1}), absl::OkStatus());
      }
    }
    EXPECT_EQ(receiver.Finish(cutter.Finish(task.tokens.size())), absl::OkStatus());
  }
}

// Of a head, in the host's memory; waits for the device.
std::vector<std::byte> PagesOf(const SequenceCache& cache, size_t layer, size_t head) {
  std::vector<kvship::PagedHead> heads;
  cache.AppendPagedHeads(layer, 0, &heads);
  const size_t page_bytes = PageBytes(cache.plan().format, cache.plan().head_dim);
  std::vector<std::byte> pages(heads[head].prefix_pages.size() * page_bytes);
  for (size_t i = 0; i < heads[head].prefix_pages.size(); ++i) {
    EXPECT_EQ(cudaMemcpy(pages.data() + i * page_bytes, heads[head].prefix_pages[i], page_bytes,
                         cudaMemcpyDefault),
              cudaSuccess);
  }
  return pages;
}

TEST_F(DevicePromptReaderTest, FramesOfTheDeviceComeToItsPoolWithoutTheHost) {
  const PrefillTask task =
      Task(150, "budget_tokens=60,window=16,allocator=ada,encoder=int4,window_encoder=f16");
  const KvShape shape = ShapeOf(random_.model().config);
  const auto memory = PoolMemory::Create(0, 8 * KvPool::kSlabBytes).value();
  const auto device_pool = KvPool::CreateOver(memory->bytes(), [&](auto copies) {
                             return memory->Write(copies);
                           }).value();
  const auto host_pool = KvPool::Create(8 * KvPool::kSlabBytes).value();
  const auto cache =
      SequenceCache::Reserve(*device_pool, shape, task.plan, 1, PageFormat::kF16).value();
  const auto wanted =
      SequenceCache::Reserve(*host_pool, shape, task.plan, 1, PageFormat::kF16).value();
  const auto staging = CreateFrameStaging(0, 2).value();
  const auto staged = Begin(*device_, task), through_host = Begin(*device_, task);
  FrameCutter cutter;
  CacheReceiver receiver(*cache);
  for (size_t l = 0; l < shape.num_layers; ++l) {
    const CompactLayer host = NextLayer(*through_host);
    ASSERT_EQ(wanted->BeginLayer(l, host.kept_tokens), absl::OkStatus());
    ASSERT_EQ(wanted->WriteLayerBytes(0, host.bytes.bytes()), absl::OkStatus());
    const LayerFrames layer =
        cutter.Cut(NextLayer(*staged, [&](size_t n) { return staging->Take(n); }));
    ASSERT_EQ(receiver.BeginLayer(layer.header), absl::OkStatus());
    for (const Frame& frame : layer.frames) {
      ASSERT_EQ(receiver.AddStagedFrame(frame.header, frame.block->device()), absl::OkStatus());
    }
    for (size_t h = 0; h < task.plan.num_heads; ++h) {
      EXPECT_EQ(PagesOf(*cache, l, h), PagesOf(*wanted, l, h));
      EXPECT_TRUE(std::ranges::equal(cache->positions(h), wanted->positions(h)));
    }
  }
  EXPECT_EQ(receiver.Finish(cutter.Finish(task.tokens.size())), absl::OkStatus());
}

// Once what is under way is done: until then what was freed may count.
size_t UsedBytes() {
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return DevicePoolBytes(cudaMemPoolAttrUsedMemCurrent).value();
}

TEST_F(DevicePromptReaderTest, AReadingHoldsWhatIsCountedForIt) {
  const size_t empty = UsedBytes();
  const auto byte = *DeviceBuffer::Create(1);
  // A device's pool rounds each of some twenty buffers up.
  const double rounding = 20.0 * static_cast<double>(std::max<size_t>(512, UsedBytes() - empty));
  for (const char* compression :
       {"scorer=keep_all,encoder=f16", "scorer=keep_all,window=16,encoder=int4,window_encoder=f16",
        "budget_tokens=60,window=16,encoder=f16",
        "budget_tokens=60,window=16,allocator=pyramid,encoder=int8,window_encoder=f16",
        "budget_tokens=120,window=100,softmax=prefix,encoder=f16",
        "budget_tokens=60,window=16,allocator=ada,encoder=f16",
        "budget_tokens=60,window=16,allocator=mass,encoder=f16",
        "budget_tokens=60,window=16,selector=chunks,encoder=f16",
        "budget_tokens=60,window=16,group_reduce=none,encoder=f32,window_encoder=f16",
        "scorer=h2o,budget_tokens=60,window=16,encoder=f16",
        "scorer=keydiff,budget_tokens=60,window=16,encoder=f16",
        "scorer=expected_attention,budget_tokens=60,window=16,encoder=f16"}) {
    SCOPED_TRACE(compression);
    const PrefillTask task = Task(150, compression);
    // What a device's attention takes for its work it keeps for all readings.
    NextLayer(*Begin(*device_, task));
    const size_t before = UsedBytes();
    const auto reading = Begin(*device_, task);
    NextLayer(*reading);
    const size_t held = UsedBytes() - before;
    EXPECT_NEAR(static_cast<double>(held), static_cast<double>(device_->BytesFor(task)), rounding);
  }
}

TEST_F(DevicePromptReaderTest, LayersStayOnTheDeviceInFramesWhereThereAreSome) {
  const auto staging = CreateFrameStaging(0, 8).value();
  const TakeFrames take = [&](size_t num_frames) { return staging->Take(num_frames); };
  for (const char* compression :
       {"scorer=keep_all,encoder=f16", "budget_tokens=60,window=16,encoder=f16",
        "budget_tokens=60,window=16,allocator=ada,encoder=int4,window_encoder=f16",
        "budget_tokens=90,window=16,allocator=mass,mass_target=0.5,encoder=f16",
        "budget_tokens=60,window=16,group_reduce=none,encoder=f32,window_encoder=f16"}) {
    SCOPED_TRACE(compression);
    const PrefillTask task = Task(150, compression);
    const auto through_host = Begin(*device_, task);
    const auto staged = Begin(*device_, task);
    while (!staged->done()) {
      CompactLayer wanted = NextLayer(*through_host);
      CompactLayer layer = NextLayer(*staged, take);
      EXPECT_EQ(staging->num_free(), 8 - layer.frames.size());  // it keeps what it needs
      EXPECT_EQ(layer.bytes.num_bytes(), 0);
      EXPECT_EQ(layer.kept_tokens, wanted.kept_tokens);
      EXPECT_EQ(layer.retained_mass, wanted.retained_mass);
      EXPECT_EQ(layer.chosen_mass, wanted.chosen_mass);
      const LayerFrames frames = FrameCutter().Cut(std::move(layer));
      const LayerFrames wanted_frames = FrameCutter().Cut(std::move(wanted));
      ASSERT_EQ(frames.frames.size(), wanted_frames.frames.size());
      for (size_t i = 0; i < frames.frames.size(); ++i) {
        const FrameHeader& header = frames.frames[i].header;
        EXPECT_EQ(header, wanted_frames.frames[i].header);
        const auto bytes = frames.frames[i].block->Download(header.num_bytes);
        ASSERT_TRUE(bytes.ok());
        EXPECT_TRUE(std::ranges::equal(*bytes, wanted_frames.frames[i].payload.bytes));
        EXPECT_EQ(frames.frames[i].block->Checksum(header.num_bytes).value(), header.crc32c);
      }
    }
  }
}

TEST_F(DevicePromptReaderTest, WithoutRoomForItsFramesALayerGoesThroughTheHost) {
  const auto staging = CreateFrameStaging(0, 1).value();
  const auto taken = staging->Take(1);
  const PrefillTask task = Task(150, "budget_tokens=60,window=16,encoder=f16");
  const auto reading = Begin(*device_, task);
  const CompactLayer layer = NextLayer(*reading, [&](size_t n) { return staging->Take(n); });
  EXPECT_EQ(layer.frames.size(), 0);
  EXPECT_EQ(layer.bytes.num_bytes(), LayoutOf(task.plan, layer.kept_tokens).num_bytes);
}

class NormedPromptReaderTest : public DevicePromptReaderTest {
 protected:
  NormedPromptReaderTest() : DevicePromptReaderTest("qwen3") {}
};

TEST_F(NormedPromptReaderTest, QueriesAndKeysAreNormedLikeOnTheCpu) {
  for (const char* compression :
       {"budget_tokens=60,window=16,encoder=f16",
        "scorer=expected_attention,budget_tokens=60,window=16,encoder=f16"}) {
    SCOPED_TRACE(compression);
    const PrefillTask task = Task(150, compression);
    const auto host = Begin(host_, task);
    const auto device = Begin(*device_, task);
    while (!host->done()) Compare(task, NextLayer(*host), NextLayer(*device));
    CompareLogits(*host, *device);
  }
}

TEST_F(DevicePromptReaderTest, ReadingsTakeTurnsBetweenBlocks) {
  const PrefillTask tasks[] = {Task(140, "budget_tokens=60,window=16,encoder=f16"),
                               Task(20, "scorer=keep_all,encoder=f16"),
                               Task(130, "budget_tokens=40,window=16,encoder=f16")};
  std::vector<std::unique_ptr<PromptReading>> alone, together;
  for (const PrefillTask& task : tasks) {
    alone.push_back(Begin(host_, task));
    together.push_back(Begin(*device_, task));
  }
  EXPECT_EQ(*together[0]->Step(), Event::kBlockDone);
  while (!alone[0]->done()) {
    for (size_t i = 0; i < 3; ++i) {
      Compare(tasks[i], NextLayer(*alone[i]), NextLayer(*together[i]));
    }
  }
  for (size_t i = 0; i < 3; ++i) CompareLogits(*alone[i], *together[i]);
}

TEST_F(DevicePromptReaderTest, AReadingMayEndBeforeItsTime) {
  const PrefillTask task = Task(140, "budget_tokens=60,window=16,encoder=f16");
  auto dropped = Begin(*device_, task);
  ASSERT_TRUE(dropped->Step().ok());  // the next block is on its way
  dropped.reset();
  const auto host = Begin(host_, task);
  const auto device = Begin(*device_, task);
  while (!host->done()) Compare(task, NextLayer(*host), NextLayer(*device));
}

TEST_F(DevicePromptReaderTest, WhatOnlyTheCpuDoesIsRefusedWithAReason) {
  PrefillTask task = Task(300, "budget_tokens=64,encoder=f16");
  task.compression.scorer = "vnorm";
  const absl::Status status = device_->Check(task);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("compression.scorer is vnorm; wanted"));
  EXPECT_EQ(ReasonOf(status), kDeviceMismatch);
  EXPECT_EQ(FieldOf(status), "compression");
}

}  // namespace
}  // namespace kvship::cuda
