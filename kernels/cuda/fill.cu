#include "kernels/cuda/fill.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kBlocks = 4096;

__global__ void StoreIntsKernel(int32_t* to, int32_t a, int32_t b) {
  to[0] = a;
  to[1] = b;
}

// The finaliser of MurmurHash3, whose every output bit depends on every input bit.
__device__ uint32_t Mix(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
  return static_cast<uint32_t>(x ^ x >> 33);
}

template <class T>
__global__ void FillRandomKernel(T* to, size_t num_elements, float mean, float deviation,
                                 uint32_t seed) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < num_elements;
       i += step) {
    const uint32_t random = Mix(i + (static_cast<uint64_t>(seed) << 40));
    const float uniform = static_cast<float>(random) * 0x1p-31f - 1.0f;  // in [-1, 1]
    const float x = mean + uniform * 1.7320508f * deviation;
    to[i].bits = static_cast<uint16_t>(PackPair<T>(x, 0.0f));
  }
}

}  // namespace

absl::Status StoreInts(cudaStream_t stream, int32_t* to, int32_t a, int32_t b) {
  return Launch(stream, dim3(1), dim3(1), 0, StoreIntsKernel, to, a, b);
}

absl::Status FillRandom(cudaStream_t stream, DType dtype, void* to, size_t num_elements, float mean,
                        float deviation, uint32_t seed) {
  return WithElementType(dtype, [&](auto element) {
    using T = decltype(element);
    return Launch(stream, dim3(kBlocks), dim3(kThreads), 0, FillRandomKernel<T>,
                  static_cast<T*>(to), num_elements, mean, deviation, seed);
  });
}

}  // namespace kvship::cuda
