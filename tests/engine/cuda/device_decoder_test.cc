// The GPU as a decode node sees it: caches written as they come from the wire, and steps of
// changing batches, against the CPU's.
#include "engine/cuda/device_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "compress/compressor.h"
#include "engine/decode.h"
#include "engine/gpu.h"
#include "engine/prefill.h"
#include "engine/sampling.h"
#include "tests/engine/cuda/random_model.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/no_memory_for.h"

namespace kvship::cuda {
namespace {

constexpr size_t kPoolBytes = size_t{32} << 20;
constexpr size_t kTail = 60;

class DeviceDecoderTest : public DeviceTest {
 protected:
  explicit DeviceDecoderTest(const char* architecture = "llama",
                             WeightFormat format = WeightFormat::kF16)
      : random_(RopePairs::kHalves, architecture, /*num_experts=*/0, format),
        // f16 keeps 11 bits, bf16 8; some tens of roundings one after the other.
        distance_(format == WeightFormat::kF16 ? 0.01 : 0.03) {}

  // As of models that were not made for f16: what a layer adds is a thousand times as large.
  void Enlarge() {
    for (float& x : random_.mutable_model().layers[0].ffn_norm) x *= 1000;
  }

  // One sequence on both sides.
  struct Sequence {
    std::unique_ptr<SequenceCache> host, device;
    int32_t token = 0;
    SamplingOptions sampling = {};
    uint64_t num_drawn = 0;
  };

  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    auto opened = OpenGpuForDecode({.is_gpu = true}, model_, kPoolBytes, 4);
    ASSERT_TRUE(opened.ok()) << opened.status();
    device_ = *std::move(opened);
  }

  // Reads a prompt on the CPU and writes its layers to both caches.
  Sequence Prefill(size_t num_tokens, const char* compression) {
    const CompressionOptions options = ParseCompression(compression).value();
    const KvShape shape = ShapeOf(model_.config);
    const KvPlan plan = MakePlan(options, shape, num_tokens).value();
    EXPECT_TRUE(device_.decoder->CheckPlan(plan).ok());
    Sequence sequence;
    sequence.host =
        SequenceCache::Reserve(*host_pool_, shape, plan, kTail, PageFormat::kF16).value();
    sequence.device =
        SequenceCache::Reserve(*device_.pool, shape, plan, kTail, device_.tail_format).value();
    sequence.token = static_cast<int32_t>(num_tokens % model_.config.vocab_tokens);
    PrefillEngine engine(model_, backend_, {.arithmetic = Arithmetic::kFloat32});
    const auto compressor = Compressor::Create(options, shape, plan).value();
    PrefillRun run(engine, {{.tokens = random_.Prompt(num_tokens), .needs = compressor->needs()}});
    while (!run.done()) {
      if (*run.Step() != PrefillRun::Event::kLayerDone) continue;
      const auto layer = compressor->Compress(backend_, run.finished_layer()).value().compact;
      for (SequenceCache* cache : {sequence.host.get(), sequence.device.get()}) {
        EXPECT_TRUE(cache->BeginLayer(layer.layer, layer.kept_tokens).ok());
        const absl::Status written = cache->WriteLayerBytes(0, layer.bytes.bytes());
        EXPECT_TRUE(written.ok()) << written;
      }
    }
    return sequence;
  }

  // A step of both sides; the next tokens are those that the device draws, or `offset` after them.
  void Step(std::vector<Sequence*> batch, bool wants_logits, int32_t offset = 0) {
    std::vector<Decoder::Item> host_items, device_items;
    for (const Sequence* sequence : batch) {
      host_items.push_back({sequence->token, sequence->host.get()});
      device_items.push_back({sequence->token, sequence->device.get(), wants_logits,
                              sequence->sampling.DrawOf(sequence->num_drawn)});
    }
    ASSERT_TRUE(host_.Step(host_items).ok());
    const absl::Status stepped = device_.decoder->Step(device_items);
    ASSERT_TRUE(stepped.ok()) << stepped;
    for (size_t i = 0; i < batch.size(); ++i) {
      const int32_t drawn = device_.decoder->drawn(i);
      const std::span<const float> logits = host_.logits(i);
      if (batch[i]->sampling.is_greedy()) {
        const float highest = *std::max_element(logits.begin(), logits.end());
        EXPECT_GT(logits[static_cast<size_t>(drawn)], highest - 10 * distance_);
      }
      if (wants_logits) {
        EXPECT_LT(Distance(device_.decoder->logits(i), logits), distance_);
        EXPECT_EQ(drawn, SampleToken(device_.decoder->logits(i), batch[i]->sampling,
                                     batch[i]->num_drawn, 0)
                             ->token);
      }
      ++batch[i]->num_drawn;
      batch[i]->token = (drawn + offset) % static_cast<int32_t>(logits.size());
      EXPECT_EQ(batch[i]->device->num_tail_tokens(), batch[i]->host->num_tail_tokens());
    }
  }

  RandomModel random_;
  const double distance_;
  const Transformer& model_ = random_.model();
  Backend backend_{2};
  DecodeEngine host_{model_, backend_, Arithmetic::kFloat32};
  std::unique_ptr<KvPool> host_pool_ = KvPool::Create(kPoolBytes).value();
  DecodeDevice device_;
};

class NormedDecoderTest : public DeviceDecoderTest {
 protected:
  NormedDecoderTest() : DeviceDecoderTest("qwen3") {}
};

TEST_F(NormedDecoderTest, QueriesAndKeysAreNormedLikeOnTheCpu) {
  Sequence sequence = Prefill(70, "scorer=keep_all,encoder=f16");
  for (int i = 0; i < 10; ++i) Step({&sequence}, true);
}

class Bf16DecoderTest : public DeviceDecoderTest {
 protected:
  Bf16DecoderTest() : DeviceDecoderTest("llama", WeightFormat::kF32) { Enlarge(); }
};

TEST_F(Bf16DecoderTest, AModelThatIsNotInF16HasTheRangeOfFloats) {
  EXPECT_EQ(device_.tail_format, PageFormat::kBf16);
  for (const char* compression :
       {"scorer=keep_all,encoder=bf16", "budget_tokens=100,window=16,encoder=f16",
        "budget_tokens=100,window=16,encoder=int4,window_encoder=bf16"}) {
    SCOPED_TRACE(compression);
    Sequence sequence = Prefill(150, compression);
    for (int i = 0; i < 10; ++i) Step({&sequence}, true);
  }
}

class OverflowingDecoderTest : public DeviceDecoderTest {
 protected:
  OverflowingDecoderTest() { Enlarge(); }
};

TEST_F(OverflowingDecoderTest, WhatOverflowsDrawsNoToken) {
  Sequence sequence = Prefill(70, "scorer=keep_all,encoder=f16");
  for (const double temperature : {0, 1}) {
    sequence.sampling.temperature = temperature;
    const Decoder::Item item = {sequence.token, sequence.device.get(), /*wants_logits=*/true,
                                sequence.sampling.DrawOf(0)};
    ASSERT_EQ(device_.decoder->Step({&item, 1}), absl::OkStatus());
    EXPECT_EQ(device_.decoder->drawn(0), kNoToken);
    EXPECT_EQ(SampleToken(device_.decoder->logits(0), sequence.sampling, 0, 0).status(),
              NoLogits());
  }
}

TEST_F(DeviceDecoderTest, WhatCameFromTheWireIsDecodedLikeOnTheCpu) {
  for (const char* compression :
       {"scorer=keep_all,encoder=f16", "budget_tokens=100,window=16,encoder=f16",
        "budget_tokens=100,window=16,encoder=int4",
        "budget_tokens=100,window=16,encoder=int4,window_encoder=f16",
        "budget_tokens=100,window=16,allocator=ada,encoder=int8",
        "budget_tokens=100,window=16,encoder=bf16",
        "budget_tokens=100,window=16,group_reduce=none,encoder=f16",
        "budget_tokens=100,window=16,group_reduce=none,encoder=int4"}) {
    SCOPED_TRACE(compression);
    Sequence sequence = Prefill(300, compression);
    for (size_t i = 0; i < 40; ++i) Step({&sequence}, i % 2 == 0);
  }
}

TEST_F(DeviceDecoderTest, TokensThatTheHostDrewGoIn) {
  Sequence sequence = Prefill(70, "scorer=keep_all,encoder=f16");
  for (int32_t i = 0; i < 20; ++i) Step({&sequence}, true, /*offset=*/i % 3);
}

TEST_F(DeviceDecoderTest, DrawsBySeedAndIndex) {
  Sequence a = Prefill(90, "scorer=keep_all,encoder=f16");
  Sequence b = Prefill(40, "scorer=keep_all,encoder=f16");
  Sequence c = Prefill(60, "scorer=keep_all,encoder=f16");
  a.sampling = {.temperature = 1.5, .top_p = 0.9, .seed = 5};
  b.sampling = {.temperature = 0.8, .top_k = 40, .seed = 6};
  c.sampling = {.temperature = 1, .min_p = 0.3, .seed = 7};
  c.num_drawn = 7;
  for (int i = 0; i < 4; ++i) Step({&a, &b, &c}, true);
  for (int i = 0; i < 4; ++i) Step({&a, &b}, i % 2 == 0);
  b.num_drawn = 2;  // as if some had been taken back
  for (int i = 0; i < 3; ++i) Step({&a, &b, &c}, i > 0);
}

TEST_F(DeviceDecoderTest, SequencesJoinLeaveAndChangePlaces) {
  Sequence a = Prefill(90, "scorer=keep_all,encoder=f16");
  Sequence b = Prefill(300, "budget_tokens=100,window=16,encoder=f16");
  Sequence c = Prefill(40, "scorer=keep_all,encoder=f16");
  for (int i = 0; i < 3; ++i) Step({&a}, true);
  for (int i = 0; i < 3; ++i) Step({&a, &b}, true);
  for (int i = 0; i < 3; ++i) Step({&c, &b, &a}, true);
  for (int i = 0; i < 3; ++i) Step({&b, &c, &a}, false);
  Step({&b}, true);
  Step({&a, &c}, true);
}

TEST_F(DeviceDecoderTest, ABatchForWhichThereIsNoMemoryLeavesNoTrace) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "not under a sanitizer";
  const auto prefill = [this](size_t n) { return Prefill(n, "scorer=keep_all,encoder=f16"); };
  Sequence decoded = prefill(150), other = prefill(70), third = prefill(40);
  for (int i = 0; i < 2; ++i) Step({&decoded}, true);
  {
    const Decoder::Item items[] = {{.token = other.token, .cache = other.device.get()},
                                   {.token = third.token, .cache = third.device.get()}};
    const NoMemoryFor none(std::size(items) * sizeof(TokenDraw), /*in_this_thread_alone=*/true);
    EXPECT_TRUE(absl::IsResourceExhausted(device_.decoder->Step(items)));
  }
  for (int i = 0; i < 3; ++i) Step({&decoded}, true);
}

TEST_F(DeviceDecoderTest, FormsOfPrefixesTakeTurnsInAStep) {
  Sequence a = Prefill(300, "budget_tokens=100,window=16,encoder=int4");
  Sequence b = Prefill(90, "scorer=keep_all,encoder=f16");
  Sequence c = Prefill(400, "budget_tokens=100,window=16,encoder=int4");
  Sequence d = Prefill(200, "budget_tokens=100,window=16,group_reduce=none,encoder=int4");
  for (int i = 0; i < 5; ++i) Step({&a, &b, &c, &d}, i % 2 == 1);
}

TEST_F(DeviceDecoderTest, ALongSequenceAmongShortOnesIsDecodedLikeOnTheCpu) {
  Sequence a = Prefill(40, "scorer=keep_all,encoder=f16");
  Sequence b = Prefill(1000, "scorer=keep_all,encoder=f16");
  Sequence c = Prefill(200, "scorer=keep_all,encoder=f16");
  for (int i = 0; i < 3; ++i) Step({&a, &b, &c}, true);
  for (int i = 0; i < 3; ++i) Step({&c, &a}, true);
}

// As if the pool were smaller than what lies in it: then the scratch holds eight splits.
TEST_F(DeviceDecoderTest, WhatTheScratchDoesNotHoldTakesTurns) {
  device_.decoder = DeviceDecoder::Create(model_, 0, 4, /*pool_bytes=*/0).value();
  Sequence a = Prefill(300, "scorer=keep_all,encoder=f16");
  Sequence b = Prefill(400, "scorer=keep_all,encoder=f16");
  Sequence c = Prefill(40, "scorer=keep_all,encoder=f16");
  for (int i = 0; i < 3; ++i) Step({&a, &b, &c}, true);
  for (int i = 0; i < 3; ++i) Step({&c, &b}, i % 2 == 0);
  const Sequence d = Prefill(1000, "scorer=keep_all,encoder=f16");
  for (const auto& batch :
       {std::vector<const Sequence*>{&c, &d}, std::vector<const Sequence*>{&d}}) {
    std::vector<Decoder::Item> items;
    for (const Sequence* sequence : batch)
      items.push_back({sequence->token, sequence->device.get()});
    EXPECT_EQ(device_.decoder->Step(items).code(), absl::StatusCode::kResourceExhausted);
  }
  Step({&a, &b}, true);
}

TEST_F(DeviceDecoderTest, RefusesPlansByName) {
  for (const auto& [text, words] :
       {std::pair{"scorer=keep_all,encoder=f32", "compression.encoder is f32; wanted f16, bf16"},
        std::pair{"budget_tokens=50,window=16,encoder=int4,window_encoder=bf16",
                  "compression.window_encoder is bf16; wanted f16"}}) {
    const KvPlan plan =
        MakePlan(ParseCompression(text).value(), ShapeOf(model_.config), 100).value();
    const absl::Status status = device_.decoder->CheckPlan(plan);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(status.message().find(words), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace kvship::cuda
