// A layer's compact form from a GPU against the CPU's, from the same queries, keys and values.
#include "compress/cuda/device_compressor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kv/policies.h"
#include "kv/pool.h"
#include "kv/sequence.h"
#include "tests/engine/cuda/compressor_sides.h"
#include "tests/engine/cuda/write_prefix.h"

namespace kvship::cuda {
namespace {

using DeviceCompressorTest = DeviceTest;

// Of the first layer and the last; `window_alone`: the last head sees nothing but its window.
void CompareLayers(const char* text, bool window_alone = false) {
  SCOPED_TRACE(testing::Message() << text << ", window alone " << window_alone);
  Sides sides(text);
  for (size_t index : {0, 3}) sides.Compress(index, window_alone);
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayers) {
  for (const char* text :
       {"scorer=keep_all,encoder=f16",
        "scorer=keep_all,window=16,encoder=int4,window_encoder=f16",
        "budget_tokens=60,window=16,kernel=7,encoder=f16",
        "budget_tokens=60,window=16,softmax=prefix,window_reduce=sum,encoder=f16",
        "budget_tokens=60,window=16,recent_tokens=20,sinks=4,encoder=f16",
        "budget_tokens=120,window=80,encoder=f16",
        "budget_tokens=60,window=16,kernel=129,encoder=f16",
        "budget_tokens=60,window=16,kernel=501,pool=max,encoder=f16",
        "budget_tokens=140,window=129,softmax=prefix,encoder=f16",
        "scorer=tova,budget_tokens=60,window=80,encoder=f16",
        "budget_tokens=60,window=16,allocator=pyramid,encoder=f16",
        "budget_tokens=60,window=16,encoder=int4,window_encoder=f16",
        "budget_tokens=60,window=40,encoder=int8,window_encoder=f16",
        "budget_tokens=17,window=16,encoder=int8,window_encoder=f16",
        "budget_tokens=20,window=16,sinks=4,encoder=int8,window_encoder=f16",
        "budget_tokens=16,window=16,encoder=int8,window_encoder=f16",
        "scorer=knorm,budget_tokens=60,window=16,encoder=f16",
        "scorer=knorm,budget_tokens=60,window=16,recent_tokens=0,sinks=1,encoder=f16",
        "scorer=streaming_llm,budget_tokens=60,window=16,encoder=f16",
        "scorer=streaming_llm,budget_tokens=60,window=16,recent_tokens=5,encoder=f16",
        "scorer=random,budget_tokens=60,window=16,allocator=pyramid,seed=9,encoder=f16",
        "scorer=tova,budget_tokens=60,window=16,encoder=f16",
        "scorer=tova,budget_tokens=60,window=1,sinks=2,allocator=pyramid,encoder=f16",
        "scorer=h2o,budget_tokens=60,window=16,encoder=f16",
        "scorer=h2o,budget_tokens=60,window=16,group_reduce=max,sinks=2,encoder=f16",
        "scorer=h2o,normalised=true,budget_tokens=60,window=16,recent_tokens=1,encoder=f16",
        "scorer=expected_attention,budget_tokens=60,window=16,encoder=f16",
        "scorer=expected_attention,budget_tokens=60,window=16,sinks=0,recent_tokens=0,encoder=f16",
        "scorer=keydiff,budget_tokens=60,window=16,encoder=f16",
        "scorer=keydiff,budget_tokens=60,window=16,recent_tokens=0,sinks=4,encoder=f16"}) {
    CompareLayers(text);
  }
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayersWhoseHeadsDiffer) {
  for (const char* text :
       {"allocator=ada,budget_tokens=60,window=16,kernel=7,encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,kernel=7,pool=max,alpha=0.5,encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,alpha=1,encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,recent_tokens=20,sinks=4,encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,softmax=prefix,encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,encoder=int4,window_encoder=f16",
        "allocator=ada,budget_tokens=17,window=16,encoder=int8,window_encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,alpha=0,kernel=1,encoder=int4,window_encoder=f16",
        "allocator=ada,budget_tokens=16,window=16,encoder=f16",
        "allocator=ada,budget_tokens=60,window=16,encoder=int8",
        "allocator=ada,budget_tokens=149,window=16,encoder=fp8",
        "allocator=mass,budget_tokens=16,window=16,mass_target=0.5,encoder=f16",
        "allocator=mass,budget_tokens=100,window=16,mass_target=0.5,encoder=f16",
        "allocator=mass,budget_tokens=100,window=16,mass_target=0.01,encoder=f16",
        "allocator=mass,budget_tokens=100,window=16,mass_target=1,encoder=f16",
        "allocator=mass,budget_tokens=100,window=16,mass_target=0.3,mass_min_tokens=50,encoder=f16",
        ("allocator=mass,budget_tokens=100,window=16,mass_target=0.6,sinks=4,softmax=prefix,"
         "encoder=int4,window_encoder=f16"),
        "scorer=h2o,allocator=ada,budget_tokens=60,window=16,encoder=f16",
        "scorer=expected_attention,allocator=ada,budget_tokens=60,window=16,encoder=f16",
        "scorer=keydiff,allocator=mass,budget_tokens=100,window=16,mass_target=0.4,encoder=f16",
        ("scorer=knorm,allocator=mass,budget_tokens=100,window=16,mass_target=0.4,sinks=1,"
         "recent_tokens=0,encoder=f16"),
        "scorer=random,allocator=mass,budget_tokens=100,window=16,mass_target=0.4,encoder=f16"}) {
    for (bool window_alone : {false, true}) CompareLayers(text, window_alone);
  }
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayersOfWholeChunks) {
  for (const char* text :
       {"selector=chunks,budget_tokens=16,window=16,encoder=f16",
        "selector=chunks,budget_tokens=60,window=16,encoder=f16",
        "selector=chunks,budget_tokens=60,window=16,chunk_tokens=7,recent_tokens=20,encoder=int8",
        "selector=chunks,allocator=pyramid,budget_tokens=60,window=16,sinks=4,encoder=f16",
        "selector=chunks,budget_ratio=0.4,window=16,softmax=prefix,encoder=int4,window_encoder=f16",
        "selector=chunks,scorer=knorm,budget_tokens=60,window=16,recent_tokens=0,encoder=f16",
        "selector=chunks,scorer=tova,budget_tokens=60,window=16,encoder=f16",
        "selector=chunks,scorer=random,budget_tokens=140,window=16,sinks=1,encoder=f16"}) {
    CompareLayers(text);
  }
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayersInEveryNumberFormat) {
  for (DType dtype : {DType::kF16, DType::kBf16}) {
    for (const char* text : {"scorer=keep_all,encoder=f32", "scorer=keep_all,encoder=f16",
                             "scorer=keep_all,window=16,encoder=int8,window_encoder=bf16",
                             "budget_tokens=60,window=16,encoder=bf16",
                             "budget_tokens=60,window=16,encoder=f32,window_encoder=f16",
                             "budget_tokens=60,window=16,encoder=f16,window_encoder=bf16",
                             "budget_tokens=60,window=16,encoder=int4,window_encoder=f32",
                             "allocator=ada,budget_tokens=60,window=16,encoder=f32"}) {
      SCOPED_TRACE(testing::Message() << text << " of " << PageFormatName(PageFormatOf(dtype)));
      Sides(text, dtype).Compress(0);
    }
  }
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayersWhereTokensOfTheWindowAreNotAlwaysKept) {
  for (const char* text :
       {"budget_tokens=60,window=16,recent_tokens=8,encoder=f16",
        "budget_tokens=60,window=16,recent_tokens=0,sinks=4,encoder=f16",
        "budget_tokens=145,window=16,recent_tokens=0,encoder=f16",  // eleven have no score
        "budget_tokens=145,window=100,sinks=60,recent_tokens=3,encoder=f16",
        ("allocator=pyramid,budget_tokens=60,window=16,recent_tokens=3,encoder=int4,"
         "window_encoder=f16"),
        "allocator=ada,budget_tokens=60,window=16,recent_tokens=3,encoder=f16",
        "allocator=ada,budget_tokens=149,window=40,recent_tokens=0,alpha=0,encoder=f16",
        "allocator=mass,budget_tokens=100,window=16,recent_tokens=3,mass_target=0.4,encoder=f16",
        "allocator=mass,budget_tokens=149,window=40,recent_tokens=0,mass_target=1,encoder=f16",
        "selector=chunks,budget_tokens=60,window=16,recent_tokens=3,encoder=f16",
        "selector=chunks,budget_tokens=100,window=60,recent_tokens=0,chunk_tokens=7,encoder=f16"}) {
    CompareLayers(text);
  }
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayersOfAWindowBeforeThePromptsEnd) {
  for (const char* text :
       {"budget_tokens=80,observe_begin=90,observe_end=106,recent_tokens=8,encoder=f16",
        "budget_tokens=80,observe_begin=-50,observe_end=-30,encoder=f16",
        ("budget_tokens=120,observe_begin=20,observe_end=100,softmax=prefix,recent_tokens=9,"
         "encoder=f16"),
        "budget_tokens=80,window=16,observe_end=140,encoder=int4,window_encoder=f16",
        ("allocator=mass,budget_tokens=120,window=16,observe_end=100,recent_tokens=10,"
         "mass_target=0.5,encoder=f16"),
        "selector=chunks,budget_tokens=60,window=16,observe_end=120,recent_tokens=5,encoder=f16",
        "scorer=knorm,budget_tokens=80,window=16,observe_end=120,encoder=f16",
        "scorer=h2o,budget_tokens=60,observe_begin=0,observe_end=16,encoder=f16"}) {
    for (bool window_alone : {false, true}) CompareLayers(text, window_alone);
  }
}

TEST_F(DeviceCompressorTest, GivesTheCpusLayersWithAChoicePerQueryHead) {
  for (const char* text :
       {"group_reduce=none,budget_tokens=60,window=16,kernel=7,encoder=f16",
        ("group_reduce=none,budget_tokens=60,window=16,pool=max,sinks=4,encoder=int8,"
         "window_encoder=f16"),
        "group_reduce=none,budget_tokens=60,window=16,softmax=prefix,recent_tokens=3,encoder=f32",
        "group_reduce=none,allocator=pyramid,budget_tokens=60,window=16,encoder=f16",
        "group_reduce=none,allocator=ada,budget_tokens=60,window=16,kernel=7,encoder=f16",
        ("group_reduce=none,allocator=mass,budget_tokens=100,window=16,mass_target=0.5,"
         "encoder=int4,window_encoder=f16"),
        "scorer=h2o,group_reduce=none,normalised=true,budget_tokens=60,window=16,encoder=f16"}) {
    SCOPED_TRACE(text);
    Sides sides(text);
    for (size_t index : {0, 3}) {
      EXPECT_EQ(sides.Compress(index).kept_tokens.size(), kShape.num_query_heads);
    }
  }
}

TEST_F(DeviceCompressorTest, OneHeadMayTakeAllPlacesButThoseThatAreAlwaysKept) {
  Sides ada("allocator=ada,budget_tokens=60,window=16,alpha=0,kernel=1,encoder=f16");
  EXPECT_THAT(ada.Compress(0, /*last_head_sees_its_window=*/true).kept_tokens,
              testing::ElementsAre(104, 16));
  Sides mass("allocator=mass,budget_tokens=60,window=16,mass_target=0.9,encoder=f16");
  EXPECT_THAT(mass.Compress(0, /*last_head_sees_its_window=*/true).kept_tokens,
              testing::ElementsAre(60, 16));
}

TEST_F(DeviceCompressorTest, PagesGoToThePoolAsFromTheWire) {
  for (const char* text : {"budget_tokens=60,window=16,encoder=f16",
                           "allocator=ada,budget_tokens=60,window=16,alpha=0,encoder=int8"}) {
    SCOPED_TRACE(text);
    Sides sides(text);
    sides.Compress(0, /*last_head_sees_its_window=*/true);
    const CompactLayer layer = ToHost(sides.device->compact());
    const size_t page_bytes = PageBytes(sides.plan.format, kShape.head_dim);
    std::vector<std::byte> prefixes[2];
    for (const bool from_the_wire : {true, false}) {
      const DeviceArray<std::byte> memory(8 * KvPool::kSlabBytes);
      auto pool = KvPool::CreateOver({memory.data(), 8 * KvPool::kSlabBytes},
                                     [](std::span<const KvPool::PageBytes> copies) {
                                       for (const auto& copy : copies) {
                                         cudaMemcpy(copy.to, copy.from.data(), copy.from.size(),
                                                    cudaMemcpyHostToDevice);
                                       }
                                       return absl::OkStatus();
                                     })
                      .value();
      auto cache = SequenceCache::Reserve(*pool, kShape, sides.plan, 1, PageFormat::kF16).value();
      ASSERT_EQ(cache->BeginLayer(0, layer.kept_tokens), absl::OkStatus());
      const absl::Status written =
          from_the_wire ? cache->WriteLayerBytes(0, layer.bytes.bytes())
                        : WritePrefix(nullptr, *cache, 0, sides.device->compact().pages());
      ASSERT_EQ(written, absl::OkStatus());
      std::vector<kvship::PagedHead> heads;
      cache->AppendPagedHeads(0, 0, &heads);
      for (const kvship::PagedHead& head : heads) {
        for (const std::byte* page : head.prefix_pages) {
          std::vector<std::byte>& bytes = prefixes[from_the_wire ? 1 : 0];
          bytes.resize(bytes.size() + page_bytes);
          ASSERT_EQ(cudaMemcpy(&bytes[bytes.size() - page_bytes], page, page_bytes,
                               cudaMemcpyDeviceToHost),
                    cudaSuccess);
        }
      }
    }
    EXPECT_FALSE(prefixes[0].empty());
    EXPECT_EQ(prefixes[0], prefixes[1]);
  }
}

TEST_F(DeviceCompressorTest, TellsOverflowedActivationsByMassesThatAreNotNumbers) {
  constexpr size_t kWindow = 16;
  for (const char* text : {"budget_tokens=60,window=16,encoder=f16",
                           "scorer=knorm,allocator=mass,budget_tokens=60,window=16,encoder=f16"}) {
    Sides sides(text);
    const Layer layer(sides.dtype, 0, kTokens - kWindow, kWindow);
    const DeviceArray<uint16_t> queries(std::vector<uint16_t>(
        kShape.num_query_heads * kWindow * kShape.head_dim, BitsOf(sides.dtype, std::nanf(""))));
    DeviceLayerView view = layer.device();
    view.window_queries = reinterpret_cast<const std::byte*>(queries.data());
    ASSERT_EQ(sides.device->Compress(view), absl::OkStatus());
    for (float mass : ToHost(sides.device->compact()).retained_mass) {
      EXPECT_TRUE(std::isnan(mass)) << text << ": " << mass;
    }
  }
}

// No device is asked.
TEST(DeviceCompressor, WhatOnlyTheCpuDoesIsRefusedByName) {
  CompressionOptions options = ParseCompression("budget_tokens=64,encoder=bf16").value();
  KvPlan plan = MakePlan(options, kShape, 500).value();
  options.scorer = "vnorm";
  const auto message = [&] {
    const absl::Status status =
        DeviceCompressor::Create(options, kShape, plan, DType::kBf16, nullptr).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    return std::string(status.message());
  };
  EXPECT_THAT(message(),
              testing::HasSubstr("compression.scorer is vnorm; wanted snapkv, h2o, tova"));
  plan.budgets[1].recent_tokens = 500;
  EXPECT_THAT(message(), testing::HasSubstr("compression.recent_tokens is 500; wanted less than"));
  options.scorer = "snapkv";
  options.observe_begin = 1;
  options.recent_tokens = 0;
  plan = MakePlan(options, kShape, 65538).value();
  EXPECT_THAT(message(), testing::HasSubstr("compression.window is 65537; wanted at most 65536"));
}

TEST(DeviceCompressor, EveryScorerOfTheRegistryRunsOnAGpu) {
  for (const ScorerTraits& scorer : Scorers()) {
    CompressionOptions options = ParseCompression("budget_tokens=80,encoder=bf16").value();
    options.scorer = std::string(scorer.name);
    const KvPlan plan = MakePlan(options, kShape, 500).value();
    EXPECT_EQ(DeviceCompressor::Check(options, plan), absl::OkStatus());
  }
}

}  // namespace
}  // namespace kvship::cuda
