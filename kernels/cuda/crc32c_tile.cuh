// The remainder of one tile of a CRC32C range (base/crc32c.h) by the threads of a block. Device
// code.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/crc32c_polynomial.h"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {

inline constexpr int kCrc32cThreads = 256;

struct Crc32cShared {
  // Byte j of a polynomial, times x^(32 kCrc32cThreads).
  uint32_t tables[4][256];
  uint32_t warp_sums[kCrc32cThreads / kWarpThreads];
};

template <uint32_t kFactor>
__device__ uint32_t TimesFactor(uint32_t a) {
  uint32_t product = 0, image = kFactor;
#pragma unroll
  for (int bit = 31; bit >= 0; --bit) {
    if ((a >> bit & 1) != 0) product ^= image;
    image = TimesX(image);
  }
  return product;
}

// Before the first tile, and a barrier behind it.
__device__ inline void FillCrc32cTables(Crc32cShared& shared) {
  static_assert(kCrc32cThreads == 256);
  constexpr uint32_t kStride = PowerOfX(32 * kCrc32cThreads);
  const unsigned byte = threadIdx.x;
  uint32_t image = kStride;
#pragma unroll
  for (int j = 3; j >= 0; --j) {
    uint32_t product = 0;
#pragma unroll
    for (int bit = 7; bit >= 0; --bit) {
      if ((byte >> bit & 1) != 0) product ^= image;
      image = TimesX(image);
    }
    shared.tables[j][byte] = product;
  }
}

// The sum of lane l's x times x^(32 kWords l) over kLanes lanes, in lane 0.
template <int kWords, int kLanes, int kStep = 1>
__device__ uint32_t SumOfLanes(uint32_t x) {
  if constexpr (kStep < kLanes) {
    constexpr uint32_t kFactor = PowerOfX(32 * kWords * kStep);
    x ^= TimesFactor<kFactor>(__shfl_xor_sync(0xffffffffu, x, kStep));
    return SumOfLanes<kWords, kLanes, 2 * kStep>(x);
  } else {
    return x;
  }
}

// The remainder of the tile whose word r, counted from the tile's end, is word(r), in thread 0.
// word(r) is called once for every r, by thread r mod kCrc32cThreads, highest first. The whole
// block calls it, with a barrier between two calls.
template <class Word>
__device__ uint32_t Crc32cRemainder(int num_words, const Word& word, Crc32cShared& shared) {
  constexpr int kWarps = kCrc32cThreads / kWarpThreads;
  const int thread = threadIdx.x;
  uint32_t sum = 0;
  // Zeros before the tile change nothing.
#pragma unroll 4
  for (int r = (num_words - 1) / kCrc32cThreads * kCrc32cThreads + thread; r >= 0;
       r -= kCrc32cThreads) {
    sum = shared.tables[0][sum & 0xff] ^ shared.tables[1][sum >> 8 & 0xff] ^
          shared.tables[2][sum >> 16 & 0xff] ^ shared.tables[3][sum >> 24];
    if (r < num_words) sum ^= word(r);
  }
  sum = SumOfLanes<1, kWarpThreads>(sum);
  if (thread % kWarpThreads == 0) shared.warp_sums[thread / kWarpThreads] = sum;
  __syncthreads();
  if (thread >= kWarpThreads) return 0;
  sum = SumOfLanes<kWarpThreads, kWarps>(shared.warp_sums[thread % kWarps]);
  constexpr uint32_t kWord = PowerOfX(32);
  return TimesFactor<kWord>(sum);
}

}  // namespace kvship::cuda
