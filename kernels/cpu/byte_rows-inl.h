// Eight weight rows at a time in byte form, run by run, compiled once per Highway target; HWY_AVX2
// and HWY_AVX3 only. Lane r of the scales belongs to row r.

#if defined(KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
#undef KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
#else
#define KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/quantized_blocks.h"
#include "kernels/weight_format.h"

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#include <immintrin.h>

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {

inline constexpr size_t kGroupRows = 8;

// One run of eight rows.
struct RunGroup {
  __m256i bytes[kGroupRows];
  __m256 scales;
  __m256 minimums;
};

using GroupRows = std::array<const std::byte*, kGroupRows>;

// Rows [begin, begin + count); where there are fewer than eight the last one stands in.
HWY_INLINE GroupRows RowsAt(const WeightView& weights, size_t begin, size_t count) {
  GroupRows rows;
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) {
    rows[r] = weights.data + (begin + std::min(r, count - 1)) * weights.row_bytes();
  }
  return rows;
}

HWY_INLINE __m256i Load32(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

HWY_INLINE __m256i Nibbles(const std::byte* packed) {
  const __m256i both =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)));
  const __m256i shifted = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

// The half at the start of each row's block.
HWY_INLINE __m256 HalfOfEach(const GroupRows& rows, size_t at) {
  uint16_t bits[kGroupRows];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) std::memcpy(&bits[r], rows[r] + at, 2);
  __m128i halves = _mm_cvtsi32_si128(bits[0]);
  halves = _mm_insert_epi16(halves, bits[1], 1);
  halves = _mm_insert_epi16(halves, bits[2], 2);
  halves = _mm_insert_epi16(halves, bits[3], 3);
  halves = _mm_insert_epi16(halves, bits[4], 4);
  halves = _mm_insert_epi16(halves, bits[5], 5);
  halves = _mm_insert_epi16(halves, bits[6], 6);
  halves = _mm_insert_epi16(halves, bits[7], 7);
  return _mm256_cvtph_ps(halves);
}

// The two halves at the start of each row's block.
HWY_INLINE void HalvesOfEach(const GroupRows& rows, size_t at, __m256* first, __m256* second) {
  int32_t bits[kGroupRows];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) std::memcpy(&bits[r], rows[r] + at, 4);
  // Ordered so that picking every other lane of each 128-bit half leaves rows 0 to 7.
  const __m256 a = _mm256_cvtph_ps(_mm_setr_epi32(bits[0], bits[1], bits[4], bits[5]));
  const __m256 b = _mm256_cvtph_ps(_mm_setr_epi32(bits[2], bits[3], bits[6], bits[7]));
  *first = _mm256_shuffle_ps(a, b, 0x88);
  *second = _mm256_shuffle_ps(a, b, 0xdd);
}

// Eight rows side by side are too many streams for the hardware to foresee: fetches the next
// group's bytes in the order in which they lie, a run's share at a time.
template <WeightFormat kFormat>
HWY_INLINE void PrefetchNextGroup(const GroupRows& rows, size_t row_bytes, size_t run) {
  constexpr WeightBlock kBlock = BlockOf(kFormat);
  constexpr size_t kBytes = kGroupRows * kBlock.num_bytes * kByteRun / kBlock.num_weights;
  const std::byte* next = rows[0] + kGroupRows * row_bytes + run * kBytes;
  HWY_UNROLL(8)
  for (size_t at = 0; at < kBytes; at += 64) _mm_prefetch(next + at, _MM_HINT_T0);
}

template <WeightFormat kFormat>
HWY_INLINE void LoadGroup(const GroupRows& rows, size_t run, RunGroup* group);

template <>
HWY_INLINE void LoadGroup<WeightFormat::kQ4_0>(const GroupRows& rows, size_t run, RunGroup* group) {
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) group->bytes[r] = Nibbles(rows[r] + run * 18 + 2);
  group->scales = HalfOfEach(rows, run * 18);
  group->minimums = _mm256_mul_ps(group->scales, _mm256_set1_ps(-8.0f));
}

template <>
HWY_INLINE void LoadGroup<WeightFormat::kQ4_1>(const GroupRows& rows, size_t run, RunGroup* group) {
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) group->bytes[r] = Nibbles(rows[r] + run * 20 + 4);
  HalvesOfEach(rows, run * 20, &group->scales, &group->minimums);
}

template <>
HWY_INLINE void LoadGroup<WeightFormat::kQ8_0>(const GroupRows& rows, size_t run, RunGroup* group) {
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) {
    group->bytes[r] = _mm256_xor_si256(Load32(rows[r] + run * 34 + 2), _mm256_set1_epi8(-128));
  }
  group->scales = HalfOfEach(rows, run * 34);
  group->minimums = _mm256_mul_ps(group->scales, _mm256_set1_ps(-128.0f));
}

// Scales and minimums of run `run` of the K formats' blocks of eight.
HWY_INLINE void LoadSixBitScales(const GroupRows& rows, size_t at, size_t run, RunGroup* group) {
  alignas(32) int32_t scales[kGroupRows], minimums[kGroupRows];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) {
    uint32_t scale, minimum;
    LoadSixBitPair(rows[r] + at + 4, run, &scale, &minimum);
    scales[r] = static_cast<int32_t>(scale);
    minimums[r] = -static_cast<int32_t>(minimum);
  }
  HalvesOfEach(rows, at, &group->scales, &group->minimums);
  const auto load = [](const int32_t* p) HWY_ATTR {
    return _mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
  };
  group->scales = _mm256_mul_ps(group->scales, load(scales));
  group->minimums = _mm256_mul_ps(group->minimums, load(minimums));
}

HWY_INLINE __m256i KNibbles(const std::byte* packed, size_t run) {
  const __m128i shift = _mm_cvtsi64_si128(static_cast<int64_t>(run % 2 * 4));
  return _mm256_and_si256(_mm256_srl_epi64(Load32(packed + run / 2 * kByteRun), shift),
                          _mm256_set1_epi8(15));
}

template <>
HWY_INLINE void LoadGroup<WeightFormat::kQ4_K>(const GroupRows& rows, size_t run, RunGroup* group) {
  const size_t at = run / 8 * 144;
  LoadSixBitScales(rows, at, run % 8, group);
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) group->bytes[r] = KNibbles(rows[r] + at + 16, run % 8);
}

template <>
HWY_INLINE void LoadGroup<WeightFormat::kQ5_K>(const GroupRows& rows, size_t run, RunGroup* group) {
  const size_t at = run / 8 * 176;
  LoadSixBitScales(rows, at, run % 8, group);
  const __m128i shift = _mm_cvtsi64_si128(static_cast<int64_t>(run % 8));
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) {
    const __m256i high =
        _mm256_and_si256(_mm256_srl_epi64(Load32(rows[r] + at + 16), shift), _mm256_set1_epi8(1));
    group->bytes[r] =
        _mm256_or_si256(KNibbles(rows[r] + at + 48, run % 8), _mm256_slli_epi16(high, 4));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // AVX2 or AVX-512
#endif  // KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
