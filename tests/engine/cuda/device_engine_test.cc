// The engine and the compressor on a GPU against those on the CPU, with the same weights.
#include <gtest/gtest.h>

#include <functional>

#include "compress/compressor.h"
#include "compress/cuda/device_compressor.h"
#include "engine/cuda/device_decode.h"
#include "engine/cuda/device_prefill.h"
#include "engine/decode.h"
#include "engine/prefill.h"
#include "tests/engine/cuda/random_model.h"
#include "tests/engine/cuda/same_layer.h"
#include "tests/engine/cuda/write_prefix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/no_memory_for.h"

namespace kvship::cuda {
namespace {

// A captured step needs a stream of its own.
cudaStream_t Stream() {
  static const cudaStream_t stream = [] {
    cudaStream_t created = nullptr;
    EXPECT_EQ(cudaStreamCreate(&created), cudaSuccess);
    return created;
  }();
  return stream;
}

std::vector<float> FromDevice(const float* data, size_t count) {
  std::vector<float> host(count);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
  EXPECT_EQ(cudaMemcpy(host.data(), data, count * sizeof(float), cudaMemcpyDeviceToHost),
            cudaSuccess);
  return host;
}

// bf16 numbers [rows, cols], rows `stride` apart.
std::vector<float> FromDevice(const std::byte* data, size_t rows, size_t cols, size_t stride) {
  std::vector<uint16_t> bits(rows * cols);
  if (bits.empty()) return {};
  EXPECT_EQ(
      cudaMemcpy2D(bits.data(), cols * 2, data, stride * 2, cols * 2, rows, cudaMemcpyDeviceToHost),
      cudaSuccess);
  return ValuesOf(DType::kBf16, bits);
}

// bf16 keeps 8 bits; some tens of roundings one after the other.
constexpr double kBf16Distance = 0.03;

// A prompt through prefill and compression on both sides, and what decode starts from.
class Sides {
 public:
  Sides(RandomModel& random, size_t num_tokens, const char* compression, bool use_cudnn,
        size_t block_tokens = 128)
      : host_(random.model()), prompt_(random.Prompt(num_tokens)) {
    options_ = ParseCompression(compression).value();
    plan_ = MakePlan(options_, ShapeOf(host_.config), num_tokens).value();
    device_ = DeviceTransformer::Upload(host_, DType::kBf16).value();
    device_engine_ = DevicePrefillEngine::Create(
                         *device_, Stream(), {.block_tokens = block_tokens, .use_cudnn = use_cudnn})
                         .value();
    memory_ = DeviceBuffer::Create(size_t{64} << 20).value();
    device_pool_ = KvPool::CreateOver({memory_.data(), memory_.num_bytes()}).value();
    host_pool_ = KvPool::Create(size_t{64} << 20).value();
    device_cache_ = Reserve(*device_pool_);
    host_cache_ = Reserve(*host_pool_);
  }

  // Everything up to the first token. Kept positions are compared layer by layer.
  void Prefill() {
    PrefillEngine engine(host_, backend_, {.arithmetic = Arithmetic::kFloat32});
    auto compressor = Compressor::Create(options_, ShapeOf(host_.config), plan_).value();
    PrefillRun run(engine, {{.tokens = prompt_, .needs = compressor->needs()}});
    auto device_compressor =
        DeviceCompressor::Create(options_, ShapeOf(host_.config), plan_, DType::kBf16, Stream())
            .value();
    auto device_run =
        DevicePrefillRun::Create(*device_engine_, prompt_, device_compressor->needs()).value();
    while (!run.done()) {
      while (*run.Step() != PrefillRun::Event::kLayerDone) {
      }
      auto step = DevicePrefillRun::Event::kBlockDone;
      while (step != DevicePrefillRun::Event::kLayerDone) {
        const auto stepped = device_run->Step();
        ASSERT_TRUE(stepped.ok()) << stepped.status();
        step = *stepped;
      }
      const size_t layer = run.finished_layer().layer;
      CompareObservations(run.finished_layer(), device_run->finished_layer());
      ASSERT_TRUE(device_compressor->Compress(device_run->finished_layer()).ok());
      // Both caches get what the device kept, so that decode starts from the same.
      Compare(*compressor, device_run->finished_layer(), *device_compressor);
      ASSERT_TRUE(host_cache_->BeginLayer(layer, compact_.kept_tokens).ok());
      ASSERT_TRUE(host_cache_->WriteLayerBytes(0, compact_.bytes.bytes()).ok());
      ASSERT_TRUE(device_cache_->BeginLayer(layer, compact_.kept_tokens).ok());
      ASSERT_TRUE(
          WritePrefix(Stream(), *device_cache_, layer, device_compressor->compact().pages()).ok());
    }
    logits_.resize(host_.config.vocab_tokens);
    ASSERT_TRUE(
        run.Logits(0, prompt_.size() - 1, TensorView(logits_.data(), {1, logits_.size()})).ok());
    const auto logits = device_run->Logits();
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_LT(Distance(FromDevice(*logits, logits_.size()), logits_), kBf16Distance);
  }

  // Both sides take in the tokens that the device draws.
  void Decode(size_t num_steps) {
    DecodeEngine host(host_, backend_, Arithmetic::kFloat32);
    const auto device = NewDecodeEngine();
    int32_t token = 5;
    const DeviceDecodeEngine::Item item = {token, device_cache_.get()};
    const absl::Status set = device->SetBatch({&item, 1});
    ASSERT_TRUE(set.ok()) << set;
    for (size_t i = 0; i < num_steps; ++i) {
      const DecodeEngine::Item host_item = {token, host_cache_.get()};
      ASSERT_TRUE(host.Step({&host_item, 1}).ok());
      const absl::Status step = device->Step();
      ASSERT_TRUE(step.ok()) << step;
      const auto tokens = device->Tokens();
      ASSERT_TRUE(tokens.ok()) << tokens.status();
      const std::vector<float> logits = FromDevice(device->logits(), host_.config.vocab_tokens);
      EXPECT_LT(Distance(logits, host.logits(0)), kBf16Distance) << "step " << i;
      token = tokens->front();
      EXPECT_EQ(token, std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
  }

  // Without memory for what the emulation's captures need, a list of sixteen operations.
  absl::Status StepWithoutMemory(DeviceDecodeEngine& device) {
    const DeviceDecodeEngine::Item item = {5, device_cache_.get()};
    EXPECT_EQ(device.SetBatch({&item, 1}), absl::OkStatus());
    const NoMemoryFor none(16 * sizeof(std::function<void()>));
    return device.Step();
  }
  std::unique_ptr<DeviceDecodeEngine> NewDecodeEngine() const {
    return DeviceDecodeEngine::Create(*device_, Stream(), 2, memory_.num_bytes()).value();
  }

 private:
  std::unique_ptr<SequenceCache> Reserve(KvPool& pool) {
    return SequenceCache::Reserve(pool, ShapeOf(host_.config), plan_, 80, PageFormat::kBf16)
        .value();
  }

  // What each side gathered of the prompt's queries, from activations of its own.
  static void CompareObservations(const LayerView& host, const DeviceLayerView& device) {
    const auto expect_near = [](const float* got, const TensorView& wanted) {
      const size_t count = wanted.num_elements();
      EXPECT_LT(Distance(FromDevice(got, count), {wanted.f32(), count}), kBf16Distance);
    };
    if (device.column_sums != nullptr) expect_near(device.column_sums, host.column_sums);
    if (device.query_mean == nullptr) return;
    expect_near(device.query_mean, host.query_mean);
    expect_near(device.query_covariance, host.query_covariance);
  }

  // The device's choice against the CPU's from the very same queries, keys and values.
  void Compare(Compressor& compressor, const DeviceLayerView& layer,
               const DeviceCompressor& device) {
    const ModelConfig& config = host_.config;
    const size_t heads = config.num_kv_heads, tokens = prompt_.size(), d = config.head_dim;
    const size_t window = plan_.window_end - plan_.window_begin;
    ASSERT_EQ(cudaStreamSynchronize(Stream()), cudaSuccess);
    std::vector<float> keys = FromDevice(layer.keys, heads, tokens * d, layer.head_stride);
    std::vector<float> values = FromDevice(layer.values, heads, tokens * d, layer.head_stride);
    std::vector<float> queries =
        FromDevice(layer.window_queries, config.num_query_heads, window * d, window * d);
    std::vector<float> lse = FromDevice(layer.window_lse, config.num_query_heads * window);
    LayerView view;
    view.layer = layer.layer;
    view.keys = TensorView(keys.data(), {heads, tokens, d});
    view.values = TensorView(values.data(), {heads, tokens, d});
    view.window_queries = TensorView(queries.data(), {config.num_query_heads, window, d});
    view.window_lse = TensorView(lse.data(), {config.num_query_heads, window});
    view.window_begin = plan_.window_begin;
    std::vector<float> column_sums, mean, covariance;
    if (layer.column_sums != nullptr) {
      column_sums = FromDevice(layer.column_sums, config.num_query_heads * tokens);
      view.column_sums = TensorView(column_sums.data(), {config.num_query_heads, tokens});
    }
    if (layer.query_mean != nullptr) {
      mean = FromDevice(layer.query_mean, config.num_query_heads * d);
      view.query_mean = TensorView(mean.data(), {config.num_query_heads, d});
      covariance = FromDevice(layer.query_covariance, config.num_query_heads * d * d);
      view.query_covariance = TensorView(covariance.data(), {config.num_query_heads, d, d});
    }
    const Compressor::Result host = *compressor.Compress(backend_, view);
    compact_ = ToHost(device.compact());
    ExpectTheSameLayer(plan_, host.compact, compact_);
  }

  const Transformer& host_;
  const std::vector<int32_t> prompt_;
  CompressionOptions options_;
  KvPlan plan_;
  Backend backend_{2};
  std::unique_ptr<const DeviceTransformer> device_;
  std::unique_ptr<DevicePrefillEngine> device_engine_;
  DeviceBuffer memory_;
  std::unique_ptr<KvPool> device_pool_, host_pool_;
  std::unique_ptr<SequenceCache> device_cache_, host_cache_;
  std::vector<float> logits_;
  CompactLayer compact_;  // that the device made last
};

using DeviceEngineTest = DeviceTest;

TEST_F(DeviceEngineTest, KeepsAllAndDecodesLikeTheCpu) {
  RandomModel random(RopePairs::kHalves);
  for (size_t num_tokens : {5, 128, 300}) {
    SCOPED_TRACE(num_tokens);
    Sides sides(random, num_tokens, "scorer=keep_all,encoder=bf16", /*use_cudnn=*/true);
    sides.Prefill();
    sides.Decode(40);
  }
}

TEST_F(DeviceEngineTest, ACaptureForWhichThereIsNoMemoryIsMadeAnew) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "not under a sanitizer";
  RandomModel random(RopePairs::kHalves);
  Sides sides(random, 5, "scorer=keep_all,encoder=bf16", /*use_cudnn=*/true);
  sides.Prefill();
  const auto device = sides.NewDecodeEngine();
  const absl::Status without = sides.StepWithoutMemory(*device);
  EXPECT_TRUE(without.ok() || absl::IsResourceExhausted(without)) << without;
  EXPECT_EQ(device->Step(), absl::OkStatus());
}

TEST_F(DeviceEngineTest, CompressesAndDecodesLikeTheCpu) {
  RandomModel random(RopePairs::kAdjacent);
  constexpr char kMaxima[] =
      "budget_tokens=64,window=32,group_reduce=max,pool=max,kernel=5,encoder=bf16";
  for (const char* options :
       {"budget_tokens=100,window=16,kernel=7,encoder=bf16", kMaxima,
        "budget_tokens=100,window=16,softmax=prefix,encoder=bf16",
        "budget_tokens=100,window=16,sinks=4,allocator=pyramid,encoder=bf16",
        "budget_tokens=100,window=16,allocator=ada,encoder=bf16",
        "budget_tokens=100,window=16,allocator=mass,mass_target=0.5,encoder=int8",
        "scorer=knorm,budget_tokens=100,window=16,encoder=bf16",
        "scorer=streaming_llm,budget_tokens=100,window=16,encoder=bf16",
        "scorer=random,budget_tokens=100,window=16,encoder=bf16",
        "scorer=tova,budget_tokens=100,window=16,encoder=bf16",
        "scorer=keydiff,budget_tokens=100,window=16,encoder=bf16",
        "scorer=h2o,budget_tokens=100,window=16,encoder=bf16",
        "scorer=expected_attention,budget_tokens=100,window=16,encoder=bf16",
        "budget_tokens=100,window=16,encoder=fp8", "budget_tokens=100,window=16,encoder=int8",
        "budget_tokens=100,window=16,encoder=int4"}) {
    SCOPED_TRACE(options);
    Sides sides(random, 700, options, /*use_cudnn=*/true);
    sides.Prefill();
    sides.Decode(40);
  }
}

TEST_F(DeviceEngineTest, DoesToQueriesAndKeysWhatTheModelDoes) {
  for (const char* architecture : {"qwen2", "qwen3"}) {
    RandomModel random(RopePairs::kHalves, architecture);
    random.mutable_model().config.rope_attention_factor = 1.25;
    for (const char* options :
         {"budget_tokens=64,window=16,encoder=bf16",
          "scorer=expected_attention,budget_tokens=64,window=16,encoder=bf16"}) {
      SCOPED_TRACE(testing::Message() << architecture << " " << options);
      Sides sides(random, 300, options, /*use_cudnn=*/true);
      sides.Prefill();
      sides.Decode(40);
    }
  }
}

TEST_F(DeviceEngineTest, TakesTokensThroughTheirExperts) {
  struct Case {
    size_t num_experts;
    bool normalizes;
    size_t num_tokens, block_tokens;
  };
  // Blocks with many rows per expert and a last one with few; with few; many experts with many.
  for (const Case& c :
       {Case{4, true, 270, 128}, Case{40, false, 150, 128}, Case{9, true, 200, 256}}) {
    SCOPED_TRACE(testing::Message() << c.num_experts << " experts");
    RandomModel random(RopePairs::kHalves, "qwen3moe", c.num_experts);
    random.mutable_model().config.normalizes_expert_weights = c.normalizes;
    Sides sides(random, c.num_tokens, "budget_tokens=64,window=16,encoder=bf16",
                /*use_cudnn=*/true, c.block_tokens);
    sides.Prefill();
    sides.Decode(10);
  }
}

TEST_F(DeviceEngineTest, TheWindowMayBeginInTheBlockBefore) {
  RandomModel random(RopePairs::kHalves);
  Sides sides(random, 260, "scorer=snapkv,budget_tokens=64,window=16,encoder=bf16",
              /*use_cudnn=*/true);
  sides.Prefill();
}

TEST_F(DeviceEngineTest, ThePlainKernelDoesWithoutCudnn) {
  RandomModel random(RopePairs::kHalves);
  for (const char* options : {"scorer=snapkv,budget_tokens=64,window=16,encoder=bf16",
                              "scorer=h2o,budget_tokens=64,window=16,encoder=bf16"}) {
    SCOPED_TRACE(options);
    Sides sides(random, 300, options, /*use_cudnn=*/false);
    sides.Prefill();
  }
}

}  // namespace
}  // namespace kvship::cuda
