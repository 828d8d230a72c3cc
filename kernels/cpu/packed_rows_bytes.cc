#include <algorithm>
#include <cassert>

#include "kernels/cpu/packed_rows.h"
#include "kernels/weight_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/packed_rows_bytes.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/byte_rows-inl.h"
#include "kernels/cpu/processor.h"
#include "kernels/cpu/round_run-inl.h"

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

// The sum of the four lanes of each row, of vectors of rows r and r + 4: lane r is row r's.
HWY_INLINE __m256i SumsOfRows(const __m256i (&dot)[4]) {
  const __m256i pairs0 = _mm256_add_epi32(_mm256_unpacklo_epi32(dot[0], dot[1]),
                                          _mm256_unpackhi_epi32(dot[0], dot[1]));
  const __m256i pairs1 = _mm256_add_epi32(_mm256_unpacklo_epi32(dot[2], dot[3]),
                                          _mm256_unpackhi_epi32(dot[2], dot[3]));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(pairs0, pairs1),
                          _mm256_unpackhi_epi64(pairs0, pairs1));
}

HWY_INLINE __m256i Load16Twice(const int8_t* x) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

// The products of eight rows of weight bytes with a run of x, of kCount halves from `half` on.
template <size_t kCount>
HWY_INLINE __m256i DotHalves(const RunGroup& weights, size_t half, const int8_t* x) {
  __m256i dot[4];
  HWY_UNROLL(4)
  for (size_t r = 0; r < 4; ++r) {
    dot[r] = _mm256_setzero_si256();
#if HWY_TARGET == HWY_AVX3
    HWY_UNROLL(2)
    for (size_t h = half; h < half + kCount; ++h) {
      dot[r] = _mm256_dpbusd_epi32(dot[r], weights.halves[h][r], Load16Twice(x + 16 * h));
    }
    dot[r] = _mm256_slli_epi32(dot[r], 8);
    HWY_UNROLL(2)
    for (size_t h = half; h < half + kCount; ++h) {
      const __m256i low = Load16Twice(x + kByteRun + 16 * h);
      dot[r] = _mm256_dpbusd_epi32(dot[r], weights.halves[h][r], low);
    }
#else
    HWY_UNROLL(2)
    for (size_t h = half; h < half + kCount; ++h) {
      const __m256i zero = _mm256_setzero_si256(), bytes = weights.halves[h][r];
      const __m256i low =
          _mm256_madd_epi16(_mm256_unpacklo_epi8(bytes, zero), Load16Twice(x + 32 * h));
      const __m256i high =
          _mm256_madd_epi16(_mm256_unpackhi_epi8(bytes, zero), Load16Twice(x + 32 * h + 16));
      dot[r] = _mm256_add_epi32(dot[r], _mm256_add_epi32(low, high));
    }
#endif
  }
  return SumsOfRows(dot);
}

// sum += weights . x for one run; `steps` are the run's floats.
template <size_t kScales>
HWY_INLINE __m256 AddRun(const RunGroup& weights, const int8_t* x, const float* steps, __m256 sum) {
  const __m256 step = _mm256_broadcast_ss(steps);
  HWY_UNROLL(2)
  for (size_t h = 0; h < kScales; ++h) {
    const __m256 dot = _mm256_cvtepi32_ps(DotHalves<2 / kScales>(weights, h, x));
    const __m256 total = _mm256_broadcast_ss(steps + RoundedSumAt(kScales, h));
    sum = _mm256_fmadd_ps(dot, _mm256_mul_ps(weights.scales.scale[h], step), sum);
    sum = _mm256_fmadd_ps(weights.scales.minimum[h], total, sum);
  }
  return sum;
}

// Eight weight rows, of which `count` are wanted, with kRows rows of x.
template <WeightFormat kFormat, size_t kRows>
HWY_INLINE void GroupKernel(const PackedRowsArgs& args, const GroupRows& rows, size_t first_row,
                            size_t n, size_t count) {
  const size_t num_runs = args.weights->cols / kByteRun;
  const int8_t* x = args.x_bytes + first_row * num_runs * kRoundedRunBytes;
  const float* steps = args.x_scales + first_row * num_runs * kRoundedRunScales;
  __m256 sum[kRows];
  HWY_UNROLL(8)
  for (size_t m = 0; m < kRows; ++m) sum[m] = _mm256_setzero_ps();
  const auto add = [&](size_t run, const RunGroup& group) HWY_ATTR __attribute__((always_inline)) {
    HWY_UNROLL(4)
    for (size_t m = 0; m < kRows; ++m) {
      const size_t at = m * num_runs + run;
      sum[m] = AddRun<ScalesPerRun(kFormat)>(group, x + at * kRoundedRunBytes,
                                             steps + at * kRoundedRunScales, sum[m]);
    }
  };
  ForEachRun<kFormat>(*args.weights, rows, add);
  HWY_UNROLL(8)
  for (size_t m = 0; m < kRows; ++m) {
    alignas(32) float sums[kGroupRows];
    _mm256_store_ps(sums, sum[m]);
    float* y = args.y + (first_row + m) * args.y_stride + n;
    for (size_t r = 0; r < count; ++r) y[r] = args.accumulate ? y[r] + sums[r] : sums[r];
  }
}

template <WeightFormat kFormat>
void FormatRows(const PackedRowsArgs& args) {
  for (size_t n = 0; n < args.count; n += kGroupRows) {
    const size_t count = std::min(kGroupRows, args.count - n);
    const GroupRows rows = RowsAt(*args.weights, args.begin + n, count);
    size_t m = 0;
    for (; m + 3 <= args.num_rows; m += 3) GroupKernel<kFormat, 3>(args, rows, m, n, count);
    if (args.num_rows - m == 2) GroupKernel<kFormat, 2>(args, rows, m, n, count);
    if (args.num_rows - m == 1) GroupKernel<kFormat, 1>(args, rows, m, n, count);
  }
}

void PackedRowsBytes(const PackedRowsArgs& args) {
  WithQuantizedFormat(args.weights->format,
                      [&](auto format) { FormatRows<decltype(format)::value>(args); });
}

void RoundRow(const float* x, size_t cols, int8_t* bytes, float* scales) {
  for (size_t i = 0; i < cols; i += kByteRun) {
    RoundRun(x + i, bytes + 2 * i, scales + i / kByteRun * kRoundedRunScales);
  }
}

bool HasByteProducts() { return true; }

#else

void PackedRowsBytes(const PackedRowsArgs&) { assert(false); }
void RoundRow(const float*, size_t, int8_t*, float*) { assert(false); }
bool HasByteProducts() { return false; }

#endif  // AVX2 or AVX-512
}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(PackedRowsBytes);
HWY_EXPORT(RoundRow);
HWY_EXPORT(HasByteProducts);

// The AVX-512 form is compiled with VNNI, which the first AVX-512 processors lack.
void PackedRowsBytes(const PackedRowsArgs& args) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::PackedRowsBytes(args);
#endif
  HWY_DYNAMIC_DISPATCH(PackedRowsBytes)(args);
}

void RoundRow(const float* x, size_t cols, int8_t* bytes, float* scales) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::RoundRow(x, cols, bytes, scales);
#endif
  HWY_DYNAMIC_DISPATCH(RoundRow)(x, cols, bytes, scales);
}

bool HasByteProducts() { return HWY_DYNAMIC_DISPATCH(HasByteProducts)(); }

}  // namespace kvship
#endif  // HWY_ONCE
