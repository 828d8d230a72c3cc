#include "prefill_service/cuda/device_prompt_reader.h"

#include "base/status_macros.h"
#include "compress/cuda/device_compressor.h"
#include "engine/gpu.h"
#include "engine/prefill.h"
#include "kv/layer_needs.h"
#include "prefill_service/cuda/device_prompt_reading.h"
#include "prefill_service/gpu_prompt_reader.h"
#include "rpc/errors.h"

namespace kvship {

absl::StatusOr<std::unique_ptr<PromptReader>> OpenGpuPromptReader(const ComputeDevice& gpu,
                                                                  const Transformer& model,
                                                                  size_t block_tokens,
                                                                  size_t prefix_cache_bytes) {
  RETURN_IF_ERROR(FindGpu(gpu));
  return cuda::DevicePromptReader::Create(model, gpu.ordinal, block_tokens, prefix_cache_bytes);
}

namespace cuda {

absl::StatusOr<std::unique_ptr<DevicePromptReader>> DevicePromptReader::Create(
    const Transformer& model, int ordinal, size_t block_tokens, size_t prefix_cache_bytes) {
  RETURN_IF_ERROR(PrefixCache::CheckBytes(prefix_cache_bytes,
                                          DevicePrefillEngine::PrefixBlockBytes(model.config)));
  std::unique_ptr<DevicePromptReader> reader(new DevicePromptReader(ordinal));
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "GPU"));
  ASSIGN_OR_RETURN(reader->stream_, Stream::Create());
  ASSIGN_OR_RETURN(reader->model_, DeviceTransformer::Upload(model, DeviceDTypeOf(model)));
  DevicePrefillEngine::Options options;
  if (block_tokens > 0) options.block_tokens = block_tokens;
  options.prefix_cache_bytes = prefix_cache_bytes;
  ASSIGN_OR_RETURN(reader->engine_,
                   DevicePrefillEngine::Create(*reader->model_, reader->stream_.get(), options));
  return reader;
}

absl::Status DevicePromptReader::Check(const PrefillTask& task) const {
  absl::Status checked = DeviceCompressor::Check(task.compression, task.plan);
  if (checked.ok()) return checked;
  return WithReason(WithField(absl::FailedPreconditionError(checked.message()), "compression"),
                    kDeviceMismatch);
}

size_t DevicePromptReader::BytesFor(const PrefillTask& task) const {
  return DevicePrefillRun::BytesFor(config(), task.tokens.size(),
                                    NeedsOf(task.compression, task.plan)) +
         DeviceCompressor::BytesFor(task.compression, ShapeOf(config()), task.plan);
}

size_t DevicePromptReader::CountReusable(const PrefillTask& task) const {
  const LayerNeeds needs = NeedsOf(task.compression, task.plan);
  return engine_->prefix_cache().CountReusable(task.tokens, task.cache_salt,
                                               MostReused(task.tokens.size(), needs));
}

absl::Status DevicePromptReader::CheckDevice() {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  return stream_.Wait("GPU");
}

absl::StatusOr<std::unique_ptr<PromptReading>> DevicePromptReader::Begin(
    std::span<const PrefillTask* const> tasks) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  return DevicePromptReading::Create(*engine_, ordinal_, staging_, *tasks.front());
}

}  // namespace cuda
}  // namespace kvship
