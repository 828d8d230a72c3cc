// What one thread copies at a time, as numbers. Device code.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {

template <class T>
__device__ void UnpackChunk(const uint4& chunk, float (&x)[kChunkElements]) {
  const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const FloatPair pair = UnpackPair<T>(pairs[i]);
    x[2 * i] = pair.low;
    x[2 * i + 1] = pair.high;
  }
}

}  // namespace kvship::cuda
