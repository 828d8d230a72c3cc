// From the codes of quantized pages (kernels/page_layout.h) to operands of a warp's matrix product:
// pairs of f16 or bf16 numbers. Device code.
#pragma once

#include <type_traits>

#include "kernels/cuda/ptx.cuh"
#include "kernels/page_layout.h"

namespace kvship::cuda {

// Codes as exact numbers of T, in units that keep the scale of f16 far from its smallest numbers:
// pairs hold code / kPerUnit, and a scale times kPerUnit belongs to them.
//
// Unpack() takes two halves of a word, each with as many codes as two bytes hold, and pairs those
// in the same place of both. Pairs 2 i and 2 i + 1 are of neighbouring bytes: of int4 the low bits
// come first, then the high ones.
template <class T, PageFormat kFormat>
struct Codes;

// A number of f16 from 1024 on has its code in the low bits, of bf16 from 128 on.
template <>
struct Codes<f16, PageFormat::kInt4> {
  static constexpr int kPerUnit = 16;
  __device__ static void Unpack(uint32_t x, uint32_t (&pairs)[4]) {
    constexpr uint32_t kMask = 0x000f000f, k1024 = 0x64006400, kSixteenth = 0x2c002c00;
    constexpr uint32_t kMinus64 = 0xd400d400;
    const uint32_t shifted[4] = {x, x >> 8, x >> 4, x >> 12};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[i] = MultiplyAddPair<f16>(MaskOr(shifted[i], kMask, k1024), kSixteenth, kMinus64);
    }
  }
};
template <>
struct Codes<bf16, PageFormat::kInt4> {
  static constexpr int kPerUnit = 1;
  __device__ static void Unpack(uint32_t x, uint32_t (&pairs)[4]) {
    constexpr uint32_t kMask = 0x000f000f, k128 = 0x43004300, kOne = 0x3f803f80;
    constexpr uint32_t kMinus128 = 0xc300c300;
    const uint32_t shifted[4] = {x, x >> 8, x >> 4, x >> 12};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[i] = MultiplyAddPair<bf16>(MaskOr(shifted[i], kMask, k128), kOne, kMinus128);
    }
  }
};

template <>
struct Codes<f16, PageFormat::kInt8> {
  static constexpr int kPerUnit = 256;
  __device__ static void Unpack(uint32_t x, uint32_t (&pairs)[2]) {
    constexpr uint32_t k1024 = 0x64646464, kPart = 0x1c001c00, kMinus4 = 0xc400c400;
    pairs[0] = MultiplyAddPair<f16>(__byte_perm(x, k1024, 0x4240), kPart, kMinus4);
    pairs[1] = MultiplyAddPair<f16>(__byte_perm(x, k1024, 0x4341), kPart, kMinus4);
  }
};
// bf16 has no room for a code and a place above it, but f32 has: from 2^23 on. Its upper half is
// the code in bf16.
template <>
struct Codes<bf16, PageFormat::kInt8> {
  static constexpr int kPerUnit = 1;
  __device__ static void Unpack(uint32_t x, uint32_t (&pairs)[2]) {
    constexpr uint32_t k2To23 = 0x4b000000;
    uint32_t codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      codes[i] = __float_as_uint(__uint_as_float(__byte_perm(x, k2To23, 0x7540 + i)) - 0x1p23f);
    }
    pairs[0] = __byte_perm(codes[0], codes[2], 0x7632);
    pairs[1] = __byte_perm(codes[1], codes[3], 0x7632);
  }
};

// e4m3 is read as the number of T that has its bits of exponent and mantissa, subnormal or not: of
// f16 that is 2^8 times smaller, of bf16 2^120 times.
template <>
struct Codes<f16, PageFormat::kFp8> {
  static constexpr int kPerUnit = 256;
  __device__ static void Unpack(uint32_t x, uint32_t (&pairs)[2]) {
    constexpr uint32_t kSign = 0x80008000, kRest = 0x3f803f80;
    pairs[0] = (x << 8 & kSign) | (x << 7 & kRest);
    pairs[1] = (x & kSign) | (x >> 1 & kRest);
  }
};
template <>
struct Codes<bf16, PageFormat::kFp8> {
  static constexpr int kPerUnit = 1;
  __device__ static void Unpack(uint32_t x, uint32_t (&pairs)[2]) {
    constexpr uint32_t kSign = 0x80008000, kRest = 0x07f007f0, k2To120 = 0x7b807b80;
    pairs[0] = MultiplyAddPair<bf16>((x << 8 & kSign) | (x << 4 & kRest), k2To120, 0);
    pairs[1] = MultiplyAddPair<bf16>((x & kSign) | (x >> 4 & kRest), k2To120, 0);
  }
};

// Two scales or minima of a page, times a power of two, as a pair of T.
template <class T, int kFactor>
__device__ uint32_t ScalePair(uint32_t bf16_pair) {
  if constexpr (std::is_same_v<T, bf16>) {
    static_assert(kFactor == 1);
    return bf16_pair;
  } else {
    const FloatPair x = UnpackPair<bf16>(bf16_pair);
    return PackPair<T>(x.low * kFactor, x.high * kFactor);
  }
}

// `kWords` words from shared memory, at once.
template <int kWords>
__device__ void LoadWords(uint32_t (&words)[kWords], const std::byte* from) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 1) {
    words[0] = *reinterpret_cast<const uint32_t*>(from);
  } else if constexpr (kWords == 2) {
    const uint2 x = *reinterpret_cast<const uint2*>(from);
    words[0] = x.x, words[1] = x.y;
  } else {
    const uint4 x = *reinterpret_cast<const uint4*>(from);
    words[0] = x.x, words[1] = x.y, words[2] = x.z, words[3] = x.w;
  }
}

}  // namespace kvship::cuda
