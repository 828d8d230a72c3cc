#include "kernels/cuda/frame_memory.h"

#include <cuda_runtime.h>

#include <span>

#include "base/crc32c.h"
#include "base/status_macros.h"
#include "kernels/cuda/frames.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {
namespace {

// A stream of their own, which waits for no other: prompts are read and tokens decoded meanwhile,
// by kernels that its own small ones get ahead of.
// Never freed, as a transfer that hangs may hold some of it.
struct FrameMemory {
  int ordinal = 0;
  cudaStream_t stream = nullptr;
  std::byte* device = nullptr;  // [num_frames, kMostFrameBytes]
  std::byte* host = nullptr;
  // Of each frame's checksum: [num_frames, kFrameTiles].
  uint32_t* device_remainders = nullptr;
  uint32_t* host_remainders = nullptr;

  absl::Status Allocate(size_t num_frames) {
    const size_t num_bytes = num_frames * kMostFrameBytes;
    const size_t remainder_bytes = num_frames * kFrameTiles * sizeof(uint32_t);
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "GPU"));
    int least = 0, greatest = 0;
    RETURN_IF_ERROR(
        CudaStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams"));
    RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
                   "stream of frames"));
    RETURN_IF_ERROR(Take(cudaMalloc, &device, num_bytes));
    RETURN_IF_ERROR(Take(cudaMallocHost, &host, num_bytes));
    RETURN_IF_ERROR(Take(cudaMalloc, &device_remainders, remainder_bytes));
    return Take(cudaMallocHost, &host_remainders, remainder_bytes);
  }

  template <class T>
  static absl::Status Take(cudaError_t (*allocate)(void**, size_t), T** memory, size_t num_bytes) {
    return CudaStatus(allocate(reinterpret_cast<void**>(memory), num_bytes), "memory for frames");
  }

  absl::Status Copy(std::byte* to, const std::byte* from, size_t num_bytes) const {
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "GPU"));  // of this thread
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, stream), "a frame"));
    return CudaStatus(cudaStreamSynchronize(stream), "copy of a frame");
  }

  absl::StatusOr<uint32_t> Checksum(std::span<const std::byte> bytes) const {
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "GPU"));
    const size_t own = static_cast<size_t>(bytes.data() - device) / kMostFrameBytes * kFrameTiles;
    RETURN_IF_ERROR(FrameRemainders(stream, bytes.data(), bytes.size(), device_remainders + own));
    const size_t num_tiles = NumCrc32cTiles(bytes.size());
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(host_remainders + own, device_remainders + own,
                                   num_tiles * sizeof(uint32_t), cudaMemcpyDeviceToHost, stream),
                   "copy of a checksum"));
    RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream), "checksum of a frame"));
    return Crc32cOfTiles({host_remainders + own, num_tiles}, bytes.size());
  }
};

}  // namespace

absl::StatusOr<std::shared_ptr<FrameStaging>> CreateFrameStaging(int ordinal, size_t num_frames) {
  FrameMemory memory{.ordinal = ordinal};
  RETURN_IF_ERROR(memory.Allocate(num_frames));
  // CUDA loads a kernel when it first runs, and may wait for all that runs then: for transfers,
  // too.
  RETURN_IF_ERROR(memory.Checksum({memory.device, sizeof(uint32_t)}).status());
  const size_t num_bytes = num_frames * kMostFrameBytes;
  return FrameStaging::Create(
      {memory.device, num_bytes}, {memory.host, num_bytes},
      {.copy = [memory](std::byte* to, const std::byte* from,
                        size_t copied_bytes) { return memory.Copy(to, from, copied_bytes); },
       .checksum = [memory](std::span<const std::byte> bytes) { return memory.Checksum(bytes); }});
}

}  // namespace kvship::cuda
