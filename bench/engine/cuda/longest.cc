#include "bench/engine/cuda/longest.h"

#include <cstdio>
#include <memory>
#include <vector>

#include "base/status_macros.h"
#include "compress/cuda/device_compressor.h"
#include "engine/cuda/device_prefill.h"
#include "engine/prefill.h"
#include "kernels/cuda/buffer.h"
#include "kv/plan.h"
#include "kv/pool.h"
#include "kv/sequence.h"

namespace kvship::cuda {
namespace {

constexpr size_t kStep = 1024;  // tokens; prompts of multiples of it are tried
constexpr size_t kMostSteps = size_t{16} << 10;
constexpr size_t kGeneratedTokens = 256;

// The full cache needs no compressor: its pages are written as the layers come.
absl::Status Hold(const DeviceTransformer& model, cudaStream_t stream,
                  const CompressionOptions& options, size_t num_tokens) {
  const ModelConfig& config = model.config();
  const KvShape shape = ShapeOf(config);
  ASSIGN_OR_RETURN(const KvPlan plan, MakePlan(options, shape, num_tokens));
  const size_t pool_bytes =
      SequenceCache::BytesFor(shape, plan, kGeneratedTokens, PageFormat::kBf16);
  ASSIGN_OR_RETURN(const DeviceBuffer pool, DeviceBuffer::Create(pool_bytes));
  ASSIGN_OR_RETURN(const auto engine, DevicePrefillEngine::Create(model, stream, {}));
  std::unique_ptr<DeviceCompressor> compressor;
  if (!plan.keeps_whole) {
    ASSIGN_OR_RETURN(compressor,
                     DeviceCompressor::Create(options, shape, plan, model.dtype(), stream));
  }
  const std::vector<int32_t> tokens(num_tokens, 1);
  ASSIGN_OR_RETURN(const auto run, DevicePrefillRun::Create(
                                       *engine, tokens,
                                       compressor != nullptr ? compressor->needs() : LayerNeeds{}));
  RETURN_IF_ERROR(run->Step().status());
  return CudaStatus(cudaStreamSynchronize(stream), "first block");
}

// What the device has no room for. cuBLASLt, cuDNN and the loading of a kernel say Internal then.
bool DoesNotFit(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsInternal(status);
}

// By halving; a line for each length that is tried.
absl::StatusOr<size_t> Longest(const DeviceTransformer& model, cudaStream_t stream,
                               const CompressionOptions& options) {
  size_t fits = 0, too_long = kMostSteps;
  while (fits + 1 < too_long) {
    const size_t steps = (fits + too_long) / 2;
    const absl::Status held = Hold(model, stream, options, steps * kStep);
    std::printf(
        "{\"bench\": \"longest probe\", \"scorer\": \"%s\", \"tokens\": %zu, \"fits\": %s, "
        "\"error\": \"%s\"}\n",
        options.scorer.c_str(), steps * kStep, held.ok() ? "true" : "false",
        held.ok() ? "" : held.ToString().c_str());
    if (!held.ok() && !DoesNotFit(held)) return held;
    // Unlike want of room, what has broken the device stays.
    RETURN_IF_ERROR(CudaStatus(cudaDeviceSynchronize(), "device after that prompt"));
    // What the pool keeps of one prompt has no room for the kernels that the next one loads.
    ASSIGN_OR_RETURN(const cudaMemPool_t pool, DevicePool());
    RETURN_IF_ERROR(CudaStatus(cudaMemPoolTrimTo(pool, 0), "memory pool"));
    (held.ok() ? fits : too_long) = steps;
  }
  return fits * kStep;
}

}  // namespace

absl::Status BenchLongest(const DeviceTransformer& model, cudaStream_t stream,
                          const CompressionOptions& compression) {
  ASSIGN_OR_RETURN(const CompressionOptions whole,
                   ParseCompression("scorer=keep_all,encoder=bf16"));
  ASSIGN_OR_RETURN(const size_t full, Longest(model, stream, whole));
  ASSIGN_OR_RETURN(const size_t compressed, Longest(model, stream, compression));
  std::printf(
      "{\"bench\": \"longest\", \"layers\": %zu, \"kv_heads\": %zu, \"tokens_full\": %zu, "
      "\"tokens_compressed\": %zu, \"ratio\": %.2f}\n",
      model.config().num_layers, model.config().num_kv_heads, full, compressed,
      static_cast<double>(compressed) / static_cast<double>(full));
  return absl::OkStatus();
}

}  // namespace kvship::cuda
