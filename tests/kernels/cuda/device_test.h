// What the tests of CUDA operations share: a fixture that skips where there is no device, arrays in
// device memory, and random tensors in 16-bit formats with their exact values as floats.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <random>
#include <vector>

#include "base/float16.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
    }
  }
};

// An array of trivial T in device memory. Fresh memory holds a pattern that is NaN as a float, so
// that what a kernel leaves unwritten shows.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    if (size == 0) return;
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xff, size * sizeof(T)), cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    EXPECT_EQ(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  // Waits for the device.
  std::vector<T> ToHost() const {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
    std::vector<T> host(size_);
    EXPECT_EQ(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

inline std::vector<std::byte> RandomBytes(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Elements of one of the two 16-bit formats, with their values.
struct Tensor16 {
  DType dtype;
  std::vector<uint16_t> bits;
  std::vector<float> values;
};

inline float ValueOf(DType dtype, uint16_t bits) {
  return dtype == DType::kF16 ? ToFloat(f16{bits}) : ToFloat(bf16{bits});
}
inline uint16_t BitsOf(DType dtype, float x) {
  return dtype == DType::kF16 ? ToF16(x).bits : ToBf16(x).bits;
}
// Half the distance of neighbouring numbers, relative to their value.
inline float UnitRoundoff(DType dtype) { return dtype == DType::kF16 ? 0x1p-11f : 0x1p-8f; }

inline Tensor16 RandomTensor(DType dtype, size_t size, unsigned seed, float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  Tensor16 tensor{dtype, std::vector<uint16_t>(size), std::vector<float>(size)};
  for (size_t i = 0; i < size; ++i) {
    tensor.bits[i] = BitsOf(dtype, normal(random));
    tensor.values[i] = ValueOf(dtype, tensor.bits[i]);
  }
  return tensor;
}

inline std::vector<float> ValuesOf(DType dtype, const std::vector<uint16_t>& bits) {
  std::vector<float> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = ValueOf(dtype, bits[i]);
  return values;
}

}  // namespace kvship::cuda
