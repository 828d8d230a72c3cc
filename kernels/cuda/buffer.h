// Buffers for a GPU; movable, not copyable. Not thread safe.
//   DeviceBuffer   device memory, allocated and freed in the order of the work on the device's
//                  streams, without waiting on the host: a kernel that waits for another machine
//                  delays neither. Non-blocking streams (cudaStreamNonBlocking) are not in that
//                  order: work there must wait until the buffer is allocated, and must be complete
//                  before it is freed. Do neither while a stream that is in that order captures
//   PinnedBuffer   host memory that a GPU copies to and from while the host does other things.
//                  Allocating takes milliseconds, freeing waits for the device; do neither in a
//                  steady state
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {

// The current device's pool for DeviceBuffers. FailedPrecondition if there are no memory pools.
inline absl::StatusOr<cudaMemPool_t> DevicePool() {
  ASSIGN_OR_RETURN(const size_t has_pools,
                   DeviceAttribute(cudaDevAttrMemoryPoolsSupported, "memory pools"));
  if (has_pools == 0) {
    return absl::FailedPreconditionError(
        "the GPU has no memory pools (cudaDevAttrMemoryPoolsSupported is 0); wanted one that has");
  }
  int device = 0;
  cudaMemPool_t pool = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "device of a memory pool"));
  RETURN_IF_ERROR(CudaStatus(cudaDeviceGetDefaultMemPool(&pool, device), "memory pool"));
  return pool;
}

// An attribute of that pool, in bytes. Memory that the pool holds unused counts as used in
// cudaMemGetInfo(), and is there for the next buffer.
inline absl::StatusOr<size_t> DevicePoolBytes(cudaMemPoolAttr attribute) {
  ASSIGN_OR_RETURN(const cudaMemPool_t pool, DevicePool());
  uint64_t num_bytes = 0;
  RETURN_IF_ERROR(CudaStatus(cudaMemPoolGetAttribute(pool, attribute, &num_bytes), "memory pool"));
  return num_bytes;
}

// Allocates and frees memory of one kind.
struct DeviceMemory {
  static absl::Status Allocate(void** data, size_t num_bytes) {
    ASSIGN_OR_RETURN(const cudaMemPool_t pool, DevicePool());
    // A pool would return freed memory to the system when the host next waits for the device, and
    // that waits for kernels of all streams: so it never does. Set at each call, so that nobody has
    // to track which devices have been set.
    uint64_t kept_bytes = std::numeric_limits<uint64_t>::max();
    RETURN_IF_ERROR(
        CudaStatus(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept_bytes),
                   "memory pool"));
    cudaError_t error = cudaMallocAsync(data, num_bytes, kDefaultStream);
    if (error == cudaErrorMemoryAllocation) {
      // Freed memory may still be in use, or fragmented: as a last resort, wait and return it.
      RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(kDefaultStream), "device memory"));
      RETURN_IF_ERROR(CudaStatus(cudaMemPoolTrimTo(pool, 0), "memory pool"));
      error = cudaMallocAsync(data, num_bytes, kDefaultStream);
    }
    return CudaStatus(error, "device memory");
  }
  static void Free(void* data) {
    // The default stream is the current device's, which need not be the memory's.
    int current = 0;
    cudaPointerAttributes memory = {};
    if (cudaGetDevice(&current) != cudaSuccess) return;
    if (cudaPointerGetAttributes(&memory, data) != cudaSuccess) return;
    if (memory.device != current) cudaSetDevice(memory.device);
    cudaFreeAsync(data, kDefaultStream);
    if (memory.device != current) cudaSetDevice(current);
  }

  // In order with all streams except non-blocking ones.
  static constexpr cudaStream_t kDefaultStream = nullptr;
};
struct PinnedMemory {
  static absl::Status Allocate(void** data, size_t num_bytes) {
    return CudaStatus(cudaMallocHost(data, num_bytes), "pinned host memory");
  }
  static void Free(void* data) { cudaFreeHost(data); }
};

template <class Memory>
class CudaBuffer {
 public:
  CudaBuffer() = default;
  // Uninitialised memory. ResourceExhausted if there is too little.
  static absl::StatusOr<CudaBuffer> Create(size_t num_bytes) {
    CudaBuffer buffer;
    if (num_bytes == 0) return buffer;
    void* data = nullptr;
    RETURN_IF_ERROR(Memory::Allocate(&data, num_bytes));
    buffer.data_ = static_cast<std::byte*>(data);
    buffer.num_bytes_ = num_bytes;
    return buffer;
  }

  CudaBuffer(CudaBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  CudaBuffer& operator=(CudaBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~CudaBuffer() {
    if (data_ != nullptr) Memory::Free(data_);
  }

  std::byte* data() const { return data_; }
  size_t num_bytes() const { return num_bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t num_bytes_ = 0;
};

using DeviceBuffer = CudaBuffer<DeviceMemory>;
using PinnedBuffer = CudaBuffer<PinnedMemory>;

// The buffers of an Owner and their sizes, so that its memory is known before it is created.
template <class Owner>
struct BufferSize {
  DeviceBuffer Owner::*buffer;
  size_t num_bytes;
};
template <class Owner>
using BufferSizes = std::vector<BufferSize<Owner>>;

template <class Owner>
size_t TotalBytes(const BufferSizes<Owner>& sizes) {
  size_t num_bytes = 0;
  for (const BufferSize<Owner>& size : sizes) num_bytes += size.num_bytes;
  return num_bytes;
}
// Allocates all buffers. ResourceExhausted if there is too little memory.
template <class Owner>
absl::Status CreateBuffers(const BufferSizes<Owner>& sizes, Owner& owner) {
  for (const BufferSize<Owner>& size : sizes) {
    ASSIGN_OR_RETURN(owner.*size.buffer, DeviceBuffer::Create(size.num_bytes));
  }
  return absl::OkStatus();
}

}  // namespace kvship::cuda
