#include "engine/gpu.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/cuda/device_decoder.h"
#include "engine/cuda/device_pages.h"
#include "kernels/cuda/frame_memory.h"
#include "kernels/cuda/product.h"

namespace kvship {

absl::Status FindGpu(const ComputeDevice& gpu) {
  int num_gpus = 0;
  const cudaError_t counted = cudaGetDeviceCount(&num_gpus);
  if (counted != cudaSuccess || num_gpus == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--device is 'cuda:", gpu.ordinal, "', and this machine has no GPU that can be used (",
        counted == cudaSuccess ? "none was found" : cudaGetErrorString(counted),
        "); wanted cpu, or a GPU with NVIDIA's driver"));
  }
  if (gpu.ordinal >= num_gpus) {
    return absl::FailedPreconditionError(
        absl::StrCat("--device is 'cuda:", gpu.ordinal, "', and this machine has ", num_gpus,
                     " GPUs; wanted cuda:0 to cuda:", num_gpus - 1));
  }
  return cuda::FindCublasLt();
}

absl::StatusOr<DecodeDevice> OpenGpuForDecode(const ComputeDevice& gpu, const Transformer& model,
                                              size_t pool_bytes, size_t max_sequences) {
  RETURN_IF_ERROR(FindGpu(gpu));
  ASSIGN_OR_RETURN(auto decoder,
                   cuda::DeviceDecoder::Create(model, gpu.ordinal, max_sequences, pool_bytes));
  ASSIGN_OR_RETURN(auto memory, cuda::PoolMemory::Create(gpu.ordinal, pool_bytes));
  DecodeDevice device;
  device.tail_format = PageFormatOf(decoder->dtype());
  const std::span<std::byte> bytes = memory->bytes();
  // shared: a std::function is copied; the memory lives as long as the pool
  ASSIGN_OR_RETURN(device.pool,
                   KvPool::CreateOver(bytes, [memory = std::shared_ptr(std::move(memory))](
                                                 std::span<const KvPool::PageBytes> copies) {
                     return memory->Write(copies);
                   }));
  device.decoder = std::move(decoder);
  return device;
}

absl::StatusOr<std::shared_ptr<FrameStaging>> OpenGpuFrameStaging(const ComputeDevice& gpu,
                                                                  size_t num_frames) {
  return cuda::CreateFrameStaging(gpu.ordinal, num_frames);
}

}  // namespace kvship
