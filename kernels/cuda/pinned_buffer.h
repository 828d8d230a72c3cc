// PinnedBuffer owns host memory that a GPU copies to and from while the host does other things; it
// moves. Making and destroying one takes milliseconds. Not thread safe.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {

class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  // Uninitialised memory. ResourceExhausted if the system has no more.
  static absl::StatusOr<PinnedBuffer> Create(size_t num_bytes) {
    PinnedBuffer buffer;
    if (num_bytes == 0) return buffer;
    void* data = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaMallocHost(&data, num_bytes), "pinned host memory"));
    buffer.data_ = static_cast<std::byte*>(data);
    buffer.num_bytes_ = num_bytes;
    return buffer;
  }

  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~PinnedBuffer() { cudaFreeHost(data_); }

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

}  // namespace kvship::cuda
