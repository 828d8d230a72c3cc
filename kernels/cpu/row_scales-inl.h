// Eight rows of quantized weights at a time, and their scales in the form of weight_blocks.h,
// compiled once per Highway target; HWY_AVX2 and HWY_AVX3 only. Lane r of a vector belongs to row
// r.

#if defined(KVSHIP_KERNELS_CPU_ROW_SCALES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_ROW_SCALES_INL_H_
#undef KVSHIP_KERNELS_CPU_ROW_SCALES_INL_H_
#else
#define KVSHIP_KERNELS_CPU_ROW_SCALES_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/weight_blocks.h"

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

// 16 bytes of rows r and r + 4 each.
HWY_INLINE __m256i PairAt(const GroupRows& rows, size_t r, size_t at) {
  const auto* first = reinterpret_cast<const __m128i*>(rows[r] + at);
  const auto* second = reinterpret_cast<const __m128i*>(rows[r + 4] + at);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(first)),
                                 _mm_loadu_si128(second), 1);
}

// From four such pairs: lane r of words[i] is word i of row r.
HWY_INLINE void Transpose(const __m256i (&pairs)[4], __m256i* words) {
  const __m256i low01 = _mm256_unpacklo_epi32(pairs[0], pairs[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(pairs[2], pairs[3]);
  const __m256i high01 = _mm256_unpackhi_epi32(pairs[0], pairs[1]);
  const __m256i high23 = _mm256_unpackhi_epi32(pairs[2], pairs[3]);
  words[0] = _mm256_unpacklo_epi64(low01, low23);
  words[1] = _mm256_unpackhi_epi64(low01, low23);
  words[2] = _mm256_unpacklo_epi64(high01, high23);
  words[3] = _mm256_unpackhi_epi64(high01, high23);
}

// The four words of each row from byte `at` on, less its first kSkip bytes.
template <int kSkip = 0>
HWY_INLINE void WordsOfEach(const GroupRows& rows, size_t at, __m256i (&words)[4]) {
  __m256i pairs[4];
  HWY_UNROLL(4)
  for (size_t r = 0; r < 4; ++r) {
    pairs[r] = PairAt(rows, r, at);
    if constexpr (kSkip > 0) pairs[r] = _mm256_bsrli_epi128(pairs[r], kSkip);
  }
  Transpose(pairs, words);
}

// The half of each row at byte `at`.
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

// The two halves of each row at byte `at`.
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

// The half in the low bits of each word.
HWY_INLINE __m256 LowHalves(__m256i words) {
  const __m256i low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

// Bits of each word: those of `mask` after a shift to the right.
HWY_INLINE __m256i Shifted(__m256i words, size_t shift, int32_t mask) {
  const __m128i count = _mm_cvtsi64_si128(static_cast<int64_t>(shift));
  return _mm256_and_si256(_mm256_srl_epi32(words, count), _mm256_set1_epi32(mask));
}

// The scales of a block of eight rows: of its one run, or what those of its eight runs are made of.
struct BlockScales {
  __m256 scale;
  __m256 minimum;
  __m256i words[4];
};

template <WeightFormat kFormat>
HWY_INLINE void LoadScales(const GroupRows& rows, size_t block, BlockScales* out) {
  using enum WeightFormat;
  __m256i(&words)[4] = out->words;
  if constexpr (kFormat == kQ4_1 || kFormat == kQ5_1) {
    HalvesOfEach(rows, block, &out->scale, &out->minimum);
  } else if constexpr (kFormat == kQ4_K || kFormat == kQ5_K) {
    // Two halves; scales and minimums of runs 0-3, in bytes whose top two bits are high bits of
    // those of runs 4-7; the low nibbles of these. Becomes scales of 0-3 and 4-7, and minimums.
    WordsOfEach(rows, block, words);
    out->scale = LowHalves(words[0]);
    out->minimum = -LowHalves(_mm256_srli_epi32(words[0], 16));
    const __m256i six = _mm256_set1_epi8(63), two = _mm256_set1_epi8(0x30);
    const __m256i scales = words[1], minimums = words[2], nibbles = words[3];
    const __m256i low = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
    const __m256i high = _mm256_and_si256(_mm256_srli_epi32(nibbles, 4), _mm256_set1_epi8(15));
    words[0] = _mm256_and_si256(scales, six);
    words[1] = _mm256_or_si256(low, _mm256_and_si256(_mm256_srli_epi32(scales, 2), two));
    words[2] = _mm256_and_si256(minimums, six);
    words[3] = _mm256_or_si256(high, _mm256_and_si256(_mm256_srli_epi32(minimums, 2), two));
  } else if constexpr (kFormat == kQ2_K) {
    WordsOfEach(rows, block, words);
    HalvesOfEach(rows, block + 80, &out->scale, &out->minimum);
    out->minimum = -out->minimum;
  } else if constexpr (kFormat == kQ3_K) {
    WordsOfEach<2>(rows, block + 94, words);
    out->scale = LowHalves(words[3]);
  } else if constexpr (kFormat == kQ6_K) {
    WordsOfEach(rows, block + 192, words);
    out->scale = HalfOfEach(rows, block + 208);
  } else if constexpr (kFormat == kIQ4_XS) {
    WordsOfEach(rows, block, words);
    out->scale = LowHalves(words[0]);
  } else {
    out->scale = HalfOfEach(rows, block);
  }
}

// Scales of the two halves of a run, or of all of it at 0: ScalesPerRun(format).
struct RunScales {
  __m256 scale[2];
  __m256 minimum[2];
};

// Scales of signed weights, whose bytes are `middle` too large.
HWY_INLINE void SetSigned(__m256 scales, float middle, size_t half, RunScales* out) {
  out->scale[half] = scales;
  out->minimum[half] = _mm256_mul_ps(scales, _mm256_set1_ps(-middle));
}

// Those of run `run` of a block.
template <WeightFormat kFormat>
HWY_INLINE void SetScales(const BlockScales& block, size_t run, RunScales* out) {
  using enum WeightFormat;
  const __m256i(&words)[4] = block.words;
  const auto times = [](__m256 half, __m256i integers)
                         HWY_ATTR { return _mm256_mul_ps(half, _mm256_cvtepi32_ps(integers)); };
  const __m256i middle = _mm256_set1_epi32(32);
  if constexpr (kFormat == kQ8_0) SetSigned(block.scale, 128, 0, out);
  if constexpr (kFormat == kQ4_0) SetSigned(block.scale, 8, 0, out);
  if constexpr (kFormat == kQ5_0) SetSigned(block.scale, 16, 0, out);
  if constexpr (kFormat == kIQ4_NL) SetSigned(block.scale, kIQ4Middle, 0, out);
  if constexpr (kFormat == kQ4_1 || kFormat == kQ5_1) {
    out->scale[0] = block.scale;
    out->minimum[0] = block.minimum;
  }
  if constexpr (kFormat == kQ4_K || kFormat == kQ5_K) {
    const size_t shift = run % 4 * 8;
    out->scale[0] = times(block.scale, Shifted(words[run / 4], shift, 255));
    out->minimum[0] = times(block.minimum, Shifted(words[2 + run / 4], shift, 255));
  }
  if constexpr (kFormat == kIQ4_XS) {
    const __m256i high = _mm256_slli_epi32(Shifted(words[0], 16 + 2 * run, 3), 4);
    const __m256i both = _mm256_or_si256(Shifted(words[1], 4 * run, 15), high);
    SetSigned(times(block.scale, _mm256_sub_epi32(both, middle)), kIQ4Middle, 0, out);
  }
  // Two scales per run: run 2i has those of bytes 0 and 1 of word i, run 2i + 1 those of 2 and 3.
  HWY_UNROLL(2)
  for (size_t h = 0; h < ScalesPerRun(kFormat); ++h) {
    const size_t shift = run % 2 * 16 + h * 8;
    if constexpr (kFormat == kQ2_K) {
      out->scale[h] = times(block.scale, Shifted(words[run / 2], shift, 15));
      out->minimum[h] = times(block.minimum, Shifted(words[run / 2], shift + 4, 15));
    }
    if constexpr (kFormat == kQ3_K) {
      // Low nibbles in two words, of the last four runs the high ones; two more bits in the third.
      const __m256i low = Shifted(words[run % 4 / 2], shift + run / 4 * 4, 15);
      const __m256i high = _mm256_slli_epi32(Shifted(words[2], shift + run / 2 * 2, 3), 4);
      const __m256i both = _mm256_or_si256(low, high);
      SetSigned(times(block.scale, _mm256_sub_epi32(both, middle)), 4, h, out);
    }
    if constexpr (kFormat == kQ6_K) {
      const __m128i count = _mm_cvtsi64_si128(static_cast<int64_t>(24 - shift));
      const __m256i top = _mm256_sll_epi32(words[run / 2], count);
      SetSigned(times(block.scale, _mm256_srai_epi32(top, 24)), 32, h, out);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // AVX2 or AVX-512
#endif  // KVSHIP_KERNELS_CPU_ROW_SCALES_INL_H_
