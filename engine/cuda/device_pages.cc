#include "engine/cuda/device_pages.h"

#include <utility>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {

absl::StatusOr<std::unique_ptr<PoolMemory>> PoolMemory::Create(int ordinal, size_t num_bytes) {
  std::unique_ptr<PoolMemory> memory(new PoolMemory(ordinal));
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "GPU"));
  ASSIGN_OR_RETURN(memory->stream_, Stream::Create());
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Create(num_bytes);
  if (absl::IsResourceExhausted(buffer.status())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV pool of ", num_bytes,
                     " bytes does not fit into the GPU's memory beside the model"));
  }
  ASSIGN_OR_RETURN(memory->memory_, std::move(buffer));
  return memory;
}

absl::Status PoolMemory::Write(std::span<const KvPool::PageBytes> copies) const {
  // Of this thread, which may be any.
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  for (const KvPool::PageBytes& copy : copies) {
    RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(copy.to, copy.from.data(), copy.from.size(),
                                               cudaMemcpyDefault, stream_.get()),
                               "copy of pages"));
  }
  return stream_.Wait("copy of pages");
}

}  // namespace kvship::cuda
