// Eight weight rows at a time in byte form, run by run, compiled once per Highway target; HWY_AVX2
// and HWY_AVX3 only.

#if defined(KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
#undef KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
#else
#define KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hwy/highway.h"
#include "kernels/cpu/byte_run.h"
#include "kernels/cpu/row_scales-inl.h"
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

// One run of eight rows. Vector r of halves[h] has the 16 bytes of half h of rows r and r + 4: sums
// of products with both halves of x have a row's four lanes side by side.
struct RunGroup {
  __m256i halves[2][4];
  RunScales scales;
};

// Eight rows side by side are too many streams for the hardware to foresee: fetches the next
// group's bytes in the order in which they lie, the share of kRuns runs at a time. To the first
// level of cache where it holds both groups, which is a little faster, else to the second, much
// faster.
template <WeightFormat kFormat, size_t kRuns>
HWY_INLINE void PrefetchNextGroup(const GroupRows& rows, size_t row_bytes, size_t run) {
  constexpr WeightBlock kBlock = BlockOf(kFormat);
  constexpr size_t kRunBytes = kGroupRows * kBlock.num_bytes * kByteRun / kBlock.num_weights;
  constexpr size_t kFirstLevelBytes = 24 << 10;
  const std::byte* next = rows[0] + kGroupRows * row_bytes + run * kRunBytes;
  if (2 * kGroupRows * row_bytes <= kFirstLevelBytes) {
    HWY_UNROLL(16)
    for (size_t at = 0; at < kRuns * kRunBytes; at += 64) _mm_prefetch(next + at, _MM_HINT_T0);
  } else {
    HWY_UNROLL(16)
    for (size_t at = 0; at < kRuns * kRunBytes; at += 64) _mm_prefetch(next + at, _MM_HINT_T1);
  }
}

// Bits kFrom on of each byte that are in `mask`, which end at kTo on, beside zeros.
template <int kFrom, int kTo = 0>
HWY_INLINE __m256i MoveBits(__m256i bytes, int mask) {
  if constexpr (kFrom > kTo) bytes = _mm256_srli_epi64(bytes, kFrom - kTo);
  if constexpr (kFrom < kTo) bytes = _mm256_slli_epi64(bytes, kTo - kFrom);
  return _mm256_and_si256(bytes, _mm256_set1_epi8(static_cast<char>(mask << kTo)));
}

// The codes of half kHalf of a run whose 32 nibbles are 16 bytes, the low ones first.
template <size_t kHalf>
HWY_INLINE __m256i SplitNibbles(const GroupRows& rows, size_t r, size_t at) {
  return MoveBits<kHalf * 4>(PairAt(rows, r, at), 15);
}

// Bytes of 16 where, of the 32 bits of a row's run, that of the weight is set.
template <size_t kHalf>
HWY_INLINE __m256i FifthBits(const GroupRows& rows, size_t r, size_t at) {
  int32_t first, second;
  std::memcpy(&first, rows[r] + at, sizeof(first));
  std::memcpy(&second, rows[r + 4] + at, sizeof(second));
  const __m256i bits = _mm256_setr_m128i(_mm_cvtsi32_si128(first), _mm_cvtsi32_si128(second));
  const auto byte = static_cast<int64_t>(0x0101010101010101u * (2 * kHalf));
  const __m256i byte_of_each =
      _mm256_broadcastsi128_si256(_mm_set_epi64x(byte + 0x0101010101010101, byte));
  const __m256i bit_of_each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const __m256i spread = _mm256_shuffle_epi8(bits, byte_of_each);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of_each), bit_of_each);
  return _mm256_and_si256(set, _mm256_set1_epi8(16));
}

HWY_INLINE __m256i IQ4Codes(__m256i nibbles) {
  const __m128i codes =
      _mm_set_epi64x(static_cast<int64_t>(kIQ4Codes8), static_cast<int64_t>(kIQ4Codes0));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codes), nibbles);
}

// Runs of a block whose codes' low bits lie in the same bytes.
template <WeightFormat kFormat>
constexpr size_t RunsTogether() {
  if (kFormat == WeightFormat::kQ4_K || kFormat == WeightFormat::kQ5_K) return 2;
  return ScalesPerRun(kFormat) == 2 ? 4 : 1;
}

// Codes of rows r and r + 4: of half kHalf of run `first` + kRun of their blocks at byte `block`,
// where kRun is below RunsTogether() and `first` a multiple of it.
template <WeightFormat kFormat, size_t kRun, size_t kHalf>
HWY_INLINE __m256i LoadCodes(const GroupRows& rows, size_t r, size_t block, size_t first) {
  using enum WeightFormat;
  if constexpr (kFormat == kQ8_0) {
    return _mm256_xor_si256(PairAt(rows, r, block + 2 + 16 * kHalf), _mm256_set1_epi8(-128));
  }
  if constexpr (kFormat == kQ4_0) return SplitNibbles<kHalf>(rows, r, block + 2);
  if constexpr (kFormat == kQ4_1) return SplitNibbles<kHalf>(rows, r, block + 4);
  if constexpr (kFormat == kQ5_0) {
    return _mm256_or_si256(SplitNibbles<kHalf>(rows, r, block + 6),
                           FifthBits<kHalf>(rows, r, block + 2));
  }
  if constexpr (kFormat == kQ5_1) {
    return _mm256_or_si256(SplitNibbles<kHalf>(rows, r, block + 8),
                           FifthBits<kHalf>(rows, r, block + 4));
  }
  if constexpr (kFormat == kIQ4_NL) return IQ4Codes(SplitNibbles<kHalf>(rows, r, block + 2));
  if constexpr (kFormat == kIQ4_XS) {
    return IQ4Codes(SplitNibbles<kHalf>(rows, r, block + 8 + first * 16));
  }
  // The K formats pack bits of two or four runs, and of all eight, into a byte.
  const auto pair = [&](size_t at) HWY_ATTR { return PairAt(rows, r, block + at + 16 * kHalf); };
  const auto of_eight = [&](size_t at) HWY_ATTR {
    return _mm256_srl_epi64(pair(at), _mm_cvtsi64_si128(static_cast<int64_t>(first)));
  };
  if constexpr (kFormat == kQ2_K) return MoveBits<2 * kRun>(pair(16 + first * 8), 3);
  if constexpr (kFormat == kQ3_K) {
    return _mm256_or_si256(MoveBits<2 * kRun>(pair(32 + first * 8), 3),
                           MoveBits<kRun, 2>(of_eight(0), 1));
  }
  if constexpr (kFormat == kQ4_K) return MoveBits<4 * kRun>(pair(16 + first * 16), 15);
  if constexpr (kFormat == kQ5_K) {
    return _mm256_or_si256(MoveBits<4 * kRun>(pair(48 + first * 16), 15),
                           MoveBits<kRun, 4>(of_eight(16), 1));
  }
  if constexpr (kFormat == kQ6_K) {
    return _mm256_or_si256(MoveBits<kRun / 2 * 4>(pair(first * 16 + kRun % 2 * 32), 15),
                           MoveBits<2 * kRun, 4>(pair(128 + first * 8), 3));
  }
}

// Calls fn(run, group) for every run of eight rows.
template <WeightFormat kFormat, class Fn>
HWY_INLINE void ForEachRun(const WeightView& weights, const GroupRows& rows, const Fn& fn) {
  constexpr WeightBlock kBlock = BlockOf(kFormat);
  constexpr size_t kRuns = kBlock.num_weights / kByteRun, kTogether = RunsTogether<kFormat>();
  const size_t row_bytes = weights.row_bytes();
  for (size_t block = 0, run = 0; block < row_bytes; block += kBlock.num_bytes) {
    BlockScales scales;
    LoadScales<kFormat>(rows, block, &scales);
    for (size_t first = 0; first < kRuns; first += kTogether) {
      PrefetchNextGroup<kFormat, kTogether>(rows, row_bytes, run);
      const auto one = [&](auto i) HWY_ATTR __attribute__((always_inline)) {
        RunGroup group;
        SetScales<kFormat>(scales, first + i, &group.scales);
        HWY_UNROLL(4)
        for (size_t r = 0; r < 4; ++r) {
          group.halves[0][r] = LoadCodes<kFormat, i, 0>(rows, r, block, first);
          group.halves[1][r] = LoadCodes<kFormat, i, 1>(rows, r, block, first);
        }
        fn(run++, group);
      };
      const auto all = [&]<size_t... kI>(std::index_sequence<kI...>) HWY_ATTR
          __attribute__((always_inline)) {
        (one(std::integral_constant<size_t, kI>()), ...);
      };
      all(std::make_index_sequence<kTogether>());
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // AVX2 or AVX-512
#endif  // KVSHIP_KERNELS_CPU_BYTE_ROWS_INL_H_
