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

template <class T>
__device__ uint4 PackChunk(const float (&x)[kChunkElements]) {
  return make_uint4(PackPair<T>(x[0], x[1]), PackPair<T>(x[2], x[3]), PackPair<T>(x[4], x[5]),
                    PackPair<T>(x[6], x[7]));
}

}  // namespace kvship::cuda
