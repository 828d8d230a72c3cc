// Buffers for a GPU; they move and never copy by themselves. Not thread safe.
//   DeviceBuffer   device memory. Making and destroying one waits for the device
//   PinnedBuffer   host memory that a GPU copies to and from while the host does other things.
//                  Making and destroying one takes milliseconds
// Neither is made or destroyed in a steady state.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {

// How memory of a kind is taken and given back, and what it is called.
struct DeviceMemory {
  static constexpr char kName[] = "device memory";
  static cudaError_t Allocate(void** data, size_t num_bytes) { return cudaMalloc(data, num_bytes); }
  static void Free(void* data) { cudaFree(data); }
};
struct PinnedMemory {
  static constexpr char kName[] = "pinned host memory";
  static cudaError_t Allocate(void** data, size_t num_bytes) {
    return cudaMallocHost(data, num_bytes);
  }
  static void Free(void* data) { cudaFreeHost(data); }
};

template <class Memory>
class CudaBuffer {
 public:
  CudaBuffer() = default;
  // Uninitialised memory. ResourceExhausted if there is no more.
  static absl::StatusOr<CudaBuffer> Create(size_t num_bytes) {
    CudaBuffer buffer;
    if (num_bytes == 0) return buffer;
    void* data = nullptr;
    RETURN_IF_ERROR(CudaStatus(Memory::Allocate(&data, num_bytes), Memory::kName));
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
  ~CudaBuffer() { Memory::Free(data_); }

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

}  // namespace kvship::cuda
