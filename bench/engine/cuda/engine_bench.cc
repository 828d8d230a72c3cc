// Times the engine on the GPU with random weights of real models' shapes. Commands:
//
//   kvship-engine-bench limits
//       what the device reaches: products, attention, reading
//   kvship-engine-bench prefill --tokens=16384,32768
//       whole prompts, without and with compression
//   kvship-engine-bench prefix --tokens=32768
//       a prompt whose beginning is kept for others, and one that begins alike
//   kvship-engine-bench long --tokens=1000000
//       one prompt, compressed, layer by layer
//   kvship-engine-bench decode --batch=1,32 --tokens=16384 --budget=2048
//       one step of a batch after such prompts, with the full cache and with a compressed one
//   kvship-engine-bench longest
//       the longest prompt that the device holds, with the full cache and with a compressed one
//
// One JSON object per result on stdout, as it comes. --shape=8b, 7b or 30b-a3b, --layers for
// fewer than the model has.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "bench/engine/cuda/limits.h"
#include "bench/engine/cuda/longest.h"
#include "bench/engine/cuda/shapes.h"
#include "bench/engine/cuda/stopwatch.h"
#include "bench/kernels/cuda/device_timing.h"
#include "compress/cuda/device_compressor.h"
#include "engine/cuda/device_decode.h"
#include "engine/cuda/device_prefill.h"
#include "engine/prefill.h"
#include "kernels/cuda/fill.h"

ABSL_FLAG(std::string, shape, "8b", "model whose shape is run: 8b, 7b or 30b-a3b");
ABSL_FLAG(uint32_t, layers, 0, "layers of it; 0: all");
ABSL_FLAG(std::string, tokens, "16384,32768", "prompt lengths, separated by commas");
ABSL_FLAG(std::string, batch, "1,32", "sequences per decode step");
ABSL_FLAG(bool, full, true, "decode: measure the full cache too");
ABSL_FLAG(uint32_t, budget, 2048, "tokens that compression keeps per KV head");
ABSL_FLAG(std::string, allocator, "uniform", "how heads and layers share that budget");
ABSL_FLAG(uint32_t, rounds, 3, "runs of each prefill; the median counts");
ABSL_FLAG(bool, cudnn, true, "attend with cuDNN, where there is one");

namespace kvship::cuda {
namespace {

std::vector<size_t> Numbers(const std::string& text) {
  std::vector<size_t> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    size_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number == 0) {
      std::fprintf(stderr, "'%s': wanted numbers above 0, separated by commas\n", text.c_str());
      std::exit(2);
    }
    numbers.push_back(number);
  }
  return numbers;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Without what the memory pool keeps for later buffers.
double UsedGigabytes() {
  size_t free_bytes = 0, total_bytes = 0;
  OrDie(cudaMemGetInfo(&free_bytes, &total_bytes), "memory");
  const size_t pool = DevicePoolBytes(cudaMemPoolAttrReservedMemCurrent).value();
  const size_t used = DevicePoolBytes(cudaMemPoolAttrUsedMemCurrent).value();
  return static_cast<double>(total_bytes - free_bytes - (pool - used)) / 1e9;
}

std::vector<int32_t> Tokens(const ModelConfig& config, size_t num_tokens) {
  std::vector<int32_t> tokens(num_tokens);
  for (size_t i = 0; i < num_tokens; ++i) {
    tokens[i] = static_cast<int32_t>(i * 7919 % config.vocab_tokens);
  }
  return tokens;
}

// SnapKV as its paper sets it.
absl::StatusOr<CompressionOptions> Compression() {
  return ParseCompression(absl::StrCat("scorer=snapkv,window=32,kernel=7,encoder=bf16,",
                                       "budget_tokens=", absl::GetFlag(FLAGS_budget),
                                       ",allocator=", absl::GetFlag(FLAGS_allocator)));
}

// Makes the plans that a prompt of this length needs: one layer of it.
absl::Status WarmUp(DevicePrefillEngine& engine, const std::vector<int32_t>& tokens) {
  ASSIGN_OR_RETURN(auto run, DevicePrefillRun::Create(engine, tokens, {}));
  auto event = DevicePrefillRun::Event::kBlockDone;
  while (event != DevicePrefillRun::Event::kLayerDone) {
    ASSIGN_OR_RETURN(event, run->Step());
  }
  return CudaStatus(cudaStreamSynchronize(engine.stream()), "warm-up");
}

struct PrefillTimes {
  double seconds = 0;
  double compress_seconds = 0;
  double used_gb = 0;
};

// One prompt; with a compressor each layer is compressed as it is finished.
absl::StatusOr<PrefillTimes> RunPrompt(DevicePrefillEngine& engine,
                                       const std::vector<int32_t>& tokens,
                                       DeviceCompressor* compressor) {
  Stopwatch whole(engine.stream());
  std::vector<std::unique_ptr<Stopwatch>> layers;
  whole.Start();
  ASSIGN_OR_RETURN(auto run,
                   DevicePrefillRun::Create(
                       engine, tokens, compressor != nullptr ? compressor->needs() : LayerNeeds{}));
  while (!run->done()) {
    ASSIGN_OR_RETURN(const auto event, run->Step());
    if (event != DevicePrefillRun::Event::kLayerDone || compressor == nullptr) continue;
    Stopwatch& watch = *layers.emplace_back(std::make_unique<Stopwatch>(engine.stream()));
    watch.Start();
    RETURN_IF_ERROR(compressor->Compress(run->finished_layer()));
    watch.Stop();
  }
  RETURN_IF_ERROR(run->Logits().status());
  whole.Stop();
  PrefillTimes times = {.seconds = whole.Seconds(), .used_gb = UsedGigabytes()};
  for (const auto& watch : layers) times.compress_seconds += watch->Seconds();
  return times;
}

absl::Status BenchPrefill(const DeviceTransformer& model, cudaStream_t stream) {
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(auto engine, DevicePrefillEngine::Create(
                                    model, stream, {.use_cudnn = absl::GetFlag(FLAGS_cudnn)}));
  for (size_t num_tokens : Numbers(absl::GetFlag(FLAGS_tokens))) {
    const std::vector<int32_t> tokens = Tokens(config, num_tokens);
    ASSIGN_OR_RETURN(const CompressionOptions options, Compression());
    ASSIGN_OR_RETURN(const KvPlan plan, MakePlan(options, ShapeOf(config), num_tokens));
    RETURN_IF_ERROR(WarmUp(*engine, tokens));
    std::vector<double> plain, compressed, compress;
    double plain_gb = 0, compressed_gb = 0;
    // Interleaved, so that both meet the device in the same state.
    for (size_t round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
      ASSIGN_OR_RETURN(const PrefillTimes without, RunPrompt(*engine, tokens, nullptr));
      ASSIGN_OR_RETURN(auto compressor, DeviceCompressor::Create(options, ShapeOf(config), plan,
                                                                 model.dtype(), stream));
      ASSIGN_OR_RETURN(const PrefillTimes with, RunPrompt(*engine, tokens, compressor.get()));
      plain.push_back(without.seconds);
      compressed.push_back(with.seconds);
      compress.push_back(with.compress_seconds);
      plain_gb = without.used_gb;
      compressed_gb = with.used_gb;
    }
    const PrefillOperations operations = OperationsOf(config, num_tokens);
    const double seconds = Median(compressed);
    std::printf(
        "{\"bench\": \"prefill\", \"shape\": \"%s\", \"layers\": %zu, \"cudnn\": %s, \"tokens\": "
        "%zu, \"seconds_plain\": %.4f, \"seconds_compressed\": %.4f, \"compress_seconds\": %.6f, "
        "\"compress_share\": %.5f, \"product_pflop\": %.4f, \"attention_pflop\": %.4f, "
        "\"tflop_per_s\": %.1f, \"used_gb_plain\": %.2f, \"used_gb_compressed\": %.2f, "
        "\"kv_bytes\": %zu, \"shipped_bytes\": %zu}\n",
        absl::GetFlag(FLAGS_shape).c_str(), config.num_layers,
        engine->has_cudnn() ? "true" : "false", num_tokens, Median(plain), seconds,
        Median(compress), Median(compress) / seconds, operations.products / 1e15,
        operations.attention / 1e15, (operations.products + operations.attention) / seconds / 1e12,
        plain_gb, compressed_gb, plan.uncompressed_bytes(), plan.wire_bytes());
  }
  return absl::OkStatus();
}

// In each round a prompt that nobody sent before, by an engine that keeps nothing and by one that
// keeps beginnings; then by the latter one that differs in its last token.
absl::Status BenchPrefix(const DeviceTransformer& model, cudaStream_t stream) {
  const ModelConfig& config = model.config();
  for (size_t num_tokens : Numbers(absl::GetFlag(FLAGS_tokens))) {
    const size_t prompt_bytes =
        (num_tokens / kPrefixBlockTokens) * DevicePrefillEngine::PrefixBlockBytes(config);
    ASSIGN_OR_RETURN(auto plain, DevicePrefillEngine::Create(model, stream, {}));
    ASSIGN_OR_RETURN(auto keeps, DevicePrefillEngine::Create(model, stream,
                                                             {.prefix_cache_bytes = prompt_bytes}));
    std::vector<int32_t> tokens = Tokens(config, num_tokens);
    RETURN_IF_ERROR(WarmUp(*plain, tokens));
    RETURN_IF_ERROR(WarmUp(*keeps, tokens));
    std::vector<double> without, keeping, reusing;
    for (size_t round = 0; round <= absl::GetFlag(FLAGS_rounds); ++round) {
      tokens.front() = static_cast<int32_t>(round);
      ASSIGN_OR_RETURN(const PrefillTimes first, RunPrompt(*plain, tokens, nullptr));
      ASSIGN_OR_RETURN(const PrefillTimes second, RunPrompt(*keeps, tokens, nullptr));
      tokens.back() = static_cast<int32_t>(round);
      ASSIGN_OR_RETURN(const PrefillTimes third, RunPrompt(*keeps, tokens, nullptr));
      if (round == 0) continue;  // that made the plans of the short rest
      without.push_back(first.seconds);
      keeping.push_back(second.seconds);
      reusing.push_back(third.seconds);
    }
    std::printf(
        "{\"bench\": \"prefix\", \"shape\": \"%s\", \"layers\": %zu, \"tokens\": %zu, "
        "\"reused_tokens\": %zu, \"kept_bytes\": %zu, \"seconds_plain\": %.4f, "
        "\"seconds_keeping\": %.4f, \"seconds_reusing\": %.4f}\n",
        absl::GetFlag(FLAGS_shape).c_str(), config.num_layers, num_tokens,
        (num_tokens - 1) / kPrefixBlockTokens * kPrefixBlockTokens, prompt_bytes, Median(without),
        Median(keeping), Median(reusing));
  }
  return absl::OkStatus();
}

// One long prompt; says after every layer how long it took, so that a run that is cut off is not
// lost.
absl::Status BenchLong(const DeviceTransformer& model, cudaStream_t stream) {
  const ModelConfig& config = model.config();
  for (size_t num_tokens : Numbers(absl::GetFlag(FLAGS_tokens))) {
    ASSIGN_OR_RETURN(auto engine, DevicePrefillEngine::Create(model, stream, {}));
    ASSIGN_OR_RETURN(const CompressionOptions options, Compression());
    ASSIGN_OR_RETURN(const KvPlan plan, MakePlan(options, ShapeOf(config), num_tokens));
    ASSIGN_OR_RETURN(auto compressor, DeviceCompressor::Create(options, ShapeOf(config), plan,
                                                               model.dtype(), stream));
    const std::vector<int32_t> tokens = Tokens(config, num_tokens);
    Stopwatch whole(stream), layer(stream);
    whole.Start();
    ASSIGN_OR_RETURN(auto run, DevicePrefillRun::Create(*engine, tokens, compressor->needs()));
    layer.Start();
    for (size_t done = 0; !run->done();) {
      ASSIGN_OR_RETURN(const auto event, run->Step());
      if (event != DevicePrefillRun::Event::kLayerDone) continue;
      RETURN_IF_ERROR(compressor->Compress(run->finished_layer()));
      layer.Stop();
      std::printf(
          "{\"bench\": \"long layer\", \"tokens\": %zu, \"layer\": %zu, "
          "\"seconds\": %.3f}\n",
          num_tokens, done++, layer.Seconds());
      layer.Start();
    }
    RETURN_IF_ERROR(run->Logits().status());
    whole.Stop();
    const double seconds = whole.Seconds();
    const PrefillOperations operations = OperationsOf(config, num_tokens);
    std::printf(
        "{\"bench\": \"long\", \"shape\": \"%s\", \"layers\": %zu, \"tokens\": %zu, "
        "\"seconds\": %.2f, \"tflop_per_s\": %.1f, \"used_gb\": %.2f, \"kv_bytes\": %zu, "
        "\"shipped_bytes\": %zu}\n",
        absl::GetFlag(FLAGS_shape).c_str(), config.num_layers, num_tokens, seconds,
        (operations.products + operations.attention) / seconds / 1e12, UsedGigabytes(),
        plan.uncompressed_bytes(), plan.wire_bytes());
  }
  return absl::OkStatus();
}

// A step of `batch` sequences whose caches, of random numbers, are what `plan` keeps of a prompt.
absl::StatusOr<double> StepSeconds(const DeviceTransformer& model, cudaStream_t stream,
                                   size_t batch, const KvPlan& plan, double* used_gb) {
  constexpr size_t kSteps = 30, kWarmUp = 5;
  const ModelConfig& config = model.config();
  size_t needed = 8 * KvPool::kSlabBytes;
  for (const KvPool::Demand& demand :
       SequenceCache::Demands(ShapeOf(config), plan, 2 * kSteps, PageFormat::kBf16)) {
    needed += batch * (demand.num_bytes() + KvPool::kSlabBytes);
  }
  ASSIGN_OR_RETURN(const DeviceBuffer memory, DeviceBuffer::Create(needed));
  RETURN_IF_ERROR(
      FillRandom(stream, model.dtype(), memory.data(), memory.num_bytes() / 2, 0.0f, 1.0f, 1));
  ASSIGN_OR_RETURN(auto pool, KvPool::CreateOver({memory.data(), memory.num_bytes()}));
  std::vector<std::unique_ptr<SequenceCache>> caches;
  std::vector<DeviceDecodeEngine::Item> items;
  const std::vector<uint32_t> counts(
      config.num_kv_heads, static_cast<uint32_t>(plan.layer_tokens.front() / config.num_kv_heads));
  for (size_t b = 0; b < batch; ++b) {
    ASSIGN_OR_RETURN(auto cache, SequenceCache::Reserve(*pool, ShapeOf(config), plan, 2 * kSteps,
                                                        PageFormat::kBf16));
    for (size_t layer = 0; layer < config.num_layers; ++layer) {
      RETURN_IF_ERROR(cache->BeginLayer(layer, counts));
    }
    items.push_back({static_cast<int32_t>(b), cache.get()});
    caches.push_back(std::move(cache));
  }
  ASSIGN_OR_RETURN(auto engine, DeviceDecodeEngine::Create(model, stream, batch, needed));
  RETURN_IF_ERROR(engine->SetBatch(items));
  Stopwatch watch(stream);
  for (size_t i = 0; i < kWarmUp + kSteps; ++i) {
    if (i == kWarmUp) watch.Start();
    RETURN_IF_ERROR(engine->Step());
  }
  watch.Stop();
  *used_gb = UsedGigabytes();
  return watch.Seconds() / kSteps;
}

absl::Status BenchStep(const DeviceTransformer& model, cudaStream_t stream, size_t batch,
                       size_t num_tokens, const CompressionOptions& options) {
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(const KvPlan plan, MakePlan(options, ShapeOf(config), num_tokens));
  double used_gb = 0;
  const auto seconds = StepSeconds(model, stream, batch, plan, &used_gb);
  const size_t kept = plan.layer_tokens.front() / config.num_kv_heads;
  // Every weight but the embedding's and of a mixture's other experts is read, and every kept
  // token's K and V.
  const double bytes =
      static_cast<double>(model.num_bytes() - config.vocab_tokens * config.hidden_dim * 2) -
      UnreadExpertBytes(config, batch) +
      static_cast<double>(batch * kept * config.num_layers * config.num_kv_heads) *
          static_cast<double>(config.head_dim * 4);
  std::printf(
      "{\"bench\": \"decode\", \"shape\": \"%s\", \"layers\": %zu, \"batch\": %zu, "
      "\"tokens\": %zu, \"kept\": %zu, ",
      absl::GetFlag(FLAGS_shape).c_str(), config.num_layers, batch, num_tokens, kept);
  if (seconds.ok()) {
    std::printf("\"ms_per_step\": %.4f, \"bytes\": %.0f, \"gb_per_s\": %.1f, \"used_gb\": %.2f}\n",
                *seconds * 1e3, bytes, bytes / *seconds / 1e9, used_gb);
  } else {
    std::printf("\"error\": \"%s\"}\n", std::string(seconds.status().message()).c_str());
  }
  return absl::IsResourceExhausted(seconds.status()) ? absl::OkStatus() : seconds.status();
}

absl::Status BenchDecode(const DeviceTransformer& model, cudaStream_t stream) {
  ASSIGN_OR_RETURN(const CompressionOptions compressed, Compression());
  ASSIGN_OR_RETURN(const CompressionOptions full, ParseCompression("scorer=keep_all,encoder=bf16"));
  for (size_t num_tokens : Numbers(absl::GetFlag(FLAGS_tokens))) {
    for (size_t batch : Numbers(absl::GetFlag(FLAGS_batch))) {
      if (absl::GetFlag(FLAGS_full)) {
        RETURN_IF_ERROR(BenchStep(model, stream, batch, num_tokens, full));
      }
      RETURN_IF_ERROR(BenchStep(model, stream, batch, num_tokens, compressed));
    }
  }
  return absl::OkStatus();
}

absl::Status Main(const std::string& command) {
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaStreamCreate(&stream), "stream"));
  if (command == "limits") return BenchLimits(stream);
  ASSIGN_OR_RETURN(const ModelConfig config,
                   ShapeNamed(absl::GetFlag(FLAGS_shape), absl::GetFlag(FLAGS_layers)));
  ASSIGN_OR_RETURN(const auto model, DeviceTransformer::Random(config, DType::kBf16, 1));
  if (command == "prefill") return BenchPrefill(*model, stream);
  if (command == "prefix") return BenchPrefix(*model, stream);
  if (command == "long") return BenchLong(*model, stream);
  if (command == "decode") return BenchDecode(*model, stream);
  if (command == "longest") {
    ASSIGN_OR_RETURN(const CompressionOptions options, Compression());
    return BenchLongest(*model, stream, options);
  }
  return absl::InvalidArgumentError(
      "wanted the command limits, prefill, prefix, long, decode or longest");
}

}  // namespace
}  // namespace kvship::cuda

int main(int argc, char** argv) {
  // A result is read even if what follows it ends the process.
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  const absl::Status status = kvship::cuda::Main(rest.size() == 2 ? rest[1] : "");
  if (status.ok()) return 0;
  std::fprintf(stderr, "kvship-engine-bench: %s\n", status.ToString().c_str());
  return 1;
}
