#include "engine/cuda/device_pages.h"

#include <utility>
#include <vector>

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

absl::Status WritePrefix(cudaStream_t stream, const SequenceCache& cache, size_t layer,
                         const std::byte* pages) {
  const size_t page_bytes = PageBytes(cache.plan().format, cache.plan().head_dim);
  std::vector<kvship::PagedHead> heads;
  cache.AppendPagedHeads(layer, 0, &heads);
  std::vector<std::byte*> targets;
  for (const kvship::PagedHead& head : heads) {
    for (const std::byte* page : head.prefix_pages) targets.push_back(const_cast<std::byte*>(page));
  }
  // Pages that lie side by side on both sides go in one copy.
  for (size_t begin = 0, end = 0; begin < targets.size(); begin = end) {
    end = begin + 1;
    while (end < targets.size() && targets[end] == targets[end - 1] + page_bytes) ++end;
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(targets[begin], pages + begin * page_bytes,
                                   (end - begin) * page_bytes, cudaMemcpyDefault, stream),
                   "copy of pages"));
  }
  return absl::OkStatus();
}

}  // namespace kvship::cuda
