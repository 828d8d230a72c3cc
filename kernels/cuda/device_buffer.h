// DeviceBuffer owns a block of device memory; it moves and never copies by itself. Making and
// destroying one waits for the device: neither belongs into a steady state. Not thread safe.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Uninitialised memory. ResourceExhausted if the device has no more.
  static absl::StatusOr<DeviceBuffer> Create(size_t num_bytes) {
    DeviceBuffer buffer;
    if (num_bytes == 0) return buffer;
    void* data = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaMalloc(&data, num_bytes), "device memory"));
    buffer.data_ = static_cast<std::byte*>(data);
    buffer.num_bytes_ = num_bytes;
    return buffer;
  }

  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        num_bytes_(std::exchange(other.num_bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }

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
