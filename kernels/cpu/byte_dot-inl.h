// Products of unsigned weight bytes and signed activation bytes on x86, compiled once per Highway
// target, for Highway 1.0.3 has no operation for them: on HWY_AVX2 with what that has, on HWY_AVX3
// with AVX-512 VNNI. Each 32-bit lane sums products of four adjacent bytes.

#if defined(KVSHIP_KERNELS_CPU_BYTE_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_BYTE_DOT_INL_H_
#undef KVSHIP_KERNELS_CPU_BYTE_DOT_INL_H_
#else
#define KVSHIP_KERNELS_CPU_BYTE_DOT_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#include <immintrin.h>

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX2

struct ByteDot {
  using Ints = __m256i;
  using Floats = __m256;
  static constexpr size_t kLanes = 8;
  // Rows whose sums, times two vectors of columns, fit in 16 registers.
  static constexpr size_t kPanelRows = 3;
  // Sums are 16 bits wide: each step adds two products of at most largest * 127.
  static constexpr uint32_t LargestByteForSteps(size_t steps) {
    return static_cast<uint32_t>(32767 / (2 * 127 * steps));
  }
  static HWY_INLINE Ints ZeroInts() { return _mm256_setzero_si256(); }
  static HWY_INLINE Ints Load(const void* p) {
    return _mm256_load_si256(static_cast<const __m256i*>(p));
  }
  static HWY_INLINE Ints Repeat4(const int8_t* p) {
    return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(p)));
  }
  static HWY_INLINE Ints MulAdd(Ints sum, Ints w, Ints x) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
    asm("" : "+x"(sum));  // else the compiler makes trees of the sums and runs out of registers
    return sum;
  }
  static HWY_INLINE Floats ToFloats(Ints sum) {
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
  }
  static HWY_INLINE Floats ZeroFloats() { return _mm256_setzero_ps(); }
  static HWY_INLINE Floats LoadFloats(const float* p) { return _mm256_load_ps(p); }
  static HWY_INLINE Floats Repeat(float x) { return _mm256_set1_ps(x); }
  static HWY_INLINE Floats Mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static HWY_INLINE Floats MulAdd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static HWY_INLINE void Store(Floats x, float* p) { _mm256_store_ps(p, x); }
};

#else

struct ByteDot {
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr size_t kLanes = 16;
  static constexpr size_t kPanelRows = 6;
  static constexpr uint32_t LargestByteForSteps(size_t) { return 255; }
  static HWY_INLINE Ints MulAdd(Ints sum, Ints w, Ints x) { return _mm512_dpbusd_epi32(sum, w, x); }
  static HWY_INLINE Floats ToFloats(Ints sum) { return _mm512_cvtepi32_ps(sum); }
  static HWY_INLINE Ints ZeroInts() { return _mm512_setzero_si512(); }
  static HWY_INLINE Ints Load(const void* p) { return _mm512_load_si512(p); }
  static HWY_INLINE Ints Repeat4(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static HWY_INLINE Floats ZeroFloats() { return _mm512_setzero_ps(); }
  static HWY_INLINE Floats LoadFloats(const float* p) { return _mm512_load_ps(p); }
  static HWY_INLINE Floats Repeat(float x) { return _mm512_set1_ps(x); }
  static HWY_INLINE Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static HWY_INLINE Floats MulAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static HWY_INLINE void Store(Floats x, float* p) { _mm512_store_ps(p, x); }
};

#endif

// Rounds 32 activations to int8 with a common step, the largest magnitude / 127; `scales` gets the
// step and the step times the sum of the rounded values.
HWY_INLINE void RoundRun(const float* x, int8_t* bytes, float* scales) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 v[4];
  for (size_t i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
  const __m256 m01 = _mm256_max_ps(_mm256_andnot_ps(sign, v[0]), _mm256_andnot_ps(sign, v[1]));
  const __m256 m23 = _mm256_max_ps(_mm256_andnot_ps(sign, v[2]), _mm256_andnot_ps(sign, v[3]));
  const __m256 m8 = _mm256_max_ps(m01, m23);
  __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  m4 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  const float largest = _mm_cvtss_f32(_mm_max_ss(m4, _mm_movehdup_ps(m4)));
  const __m256 inverse = _mm256_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
  __m256i q[4];
  for (size_t i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  const __m256i q8 = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
  __m128i q4 = _mm_add_epi32(_mm256_castsi256_si128(q8), _mm256_extracti128_si256(q8, 1));
  q4 = _mm_add_epi32(q4, _mm_shuffle_epi32(q4, 0x4e));
  q4 = _mm_add_epi32(q4, _mm_shuffle_epi32(q4, 0xb1));
  const float step = largest / 127.0f;
  scales[0] = step;
  scales[1] = step * static_cast<float>(_mm_cvtsi128_si32(q4));
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  // Packing works per 128-bit half: put the dwords back in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes),
                      _mm256_permutevar8x32_epi32(packed, order));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // AVX2 or AVX-512
#endif  // KVSHIP_KERNELS_CPU_BYTE_DOT_INL_H_
