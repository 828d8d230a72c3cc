// Activations rounded for products with weight bytes, compiled once per Highway target; HWY_AVX2
// and HWY_AVX3 only.

#if defined(KVSHIP_KERNELS_CPU_ROUND_RUN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_ROUND_RUN_INL_H_
#undef KVSHIP_KERNELS_CPU_ROUND_RUN_INL_H_
#else
#define KVSHIP_KERNELS_CPU_ROUND_RUN_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/byte_run.h"

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#include <immintrin.h>

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {

// 127 * 256: the largest whose high byte does not round up to 128.
inline constexpr float kLargestRounded = 32512.0f;

// Stores 32 integers as bytes (AVX-512 with VNNI) or 16-bit words (AVX2), in order.
#if HWY_TARGET == HWY_AVX3

HWY_INLINE void StoreAsBytes(const __m256i* q, int8_t* bytes) {
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  // Packing works per 128-bit half: put the words back in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes),
                      _mm256_permutevar8x32_epi32(packed, order));
}

// High bytes and then low ones, both signed: q = 256 * high + low.
HWY_INLINE void StoreRounded(const __m256i* q, int8_t* out) {
  __m256i high[4], low[4];
  HWY_UNROLL(4)
  for (size_t i = 0; i < 4; ++i) {
    high[i] = _mm256_srai_epi32(_mm256_add_epi32(q[i], _mm256_set1_epi32(128)), 8);
    low[i] = _mm256_sub_epi32(q[i], _mm256_slli_epi32(high[i], 8));
  }
  StoreAsBytes(high, out);
  StoreAsBytes(low, out + kByteRun);
}

#else

HWY_INLINE void StoreRounded(const __m256i* q, int8_t* out) {
  // Packing works per 128-bit half: put the quarters back in order.
  const __m256i first = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[0], q[1]), 0xd8);
  const __m256i second = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[2], q[3]), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), first);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + 1, second);
}

#endif

// Rounds 32 activations to 16 bits with a common step, the largest magnitude / 32512: x = step * q.
// Eight bits would be too few: on the demo model they move the prompt's likelihood by up to 3 %.
// `scales` gets the step and the step times sums of the rounded values: NaN where one is NaN.
HWY_INLINE void RoundRun(const float* x, int8_t* out, float* scales) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256 v[4];
  __m256i bits[4];
  HWY_UNROLL(4)
  for (size_t i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + 8 * i);
    bits[i] = _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude);
  }
  // As integers magnitudes have the same order, and NaN is the largest: max_ps could lose it.
  const __m256i m8 =
      _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
  __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
  m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4e));
  m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0xb1));
  const float largest = _mm_cvtss_f32(_mm_castsi128_ps(m4));
  const __m256 inverse = _mm256_set1_ps(largest > 0 ? kLargestRounded / largest : 0.0f);
  __m256i q[4];
  HWY_UNROLL(4)
  for (size_t i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  // In each 128-bit half two lanes of the first 16 and two of the last.
  const __m256i halves =
      _mm256_hadd_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
  const __m128i quarters =
      _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  const __m128i sums = _mm_hadd_epi32(quarters, quarters);
  const int first = _mm_cvtsi128_si32(sums), last = _mm_extract_epi32(sums, 1);
  const float step = largest / kLargestRounded;
  scales[0] = step;
  scales[1] = step * static_cast<float>(first + last);
  scales[2] = step * static_cast<float>(first);
  scales[3] = step * static_cast<float>(last);
  StoreRounded(q, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // AVX2 or AVX-512
#endif  // KVSHIP_KERNELS_CPU_ROUND_RUN_INL_H_
