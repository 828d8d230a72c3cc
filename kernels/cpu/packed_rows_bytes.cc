#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/quantized_blocks.h"

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

// The products of eight rows of weight bytes with one run of x: lane r is row r's.
#if HWY_TARGET == HWY_AVX3

struct GroupBytes {
  __m512i pairs[4];  // rows r and r + 4
};

HWY_INLINE GroupBytes Prepare(const RunGroup& group) {
  GroupBytes out;
  HWY_UNROLL(8)
  for (size_t r = 0; r < 4; ++r) {
    out.pairs[r] =
        _mm512_inserti64x4(_mm512_castsi256_si512(group.bytes[r]), group.bytes[r + 4], 1);
  }
  return out;
}

HWY_INLINE __m256i DotGroup(const GroupBytes& weights, const int8_t* x) {
  const auto* halves = reinterpret_cast<const __m256i*>(x);
  const __m512i high = _mm512_broadcast_i64x4(_mm256_loadu_si256(halves));
  const __m512i low = _mm512_broadcast_i64x4(_mm256_loadu_si256(halves + 1));
  __m512i dot[4];
  HWY_UNROLL(4)
  for (size_t r = 0; r < 4; ++r) {
    dot[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights.pairs[r], high);
    dot[r] = _mm512_dpbusd_epi32(_mm512_slli_epi32(dot[r], 8), weights.pairs[r], low);
  }
  const __m512i sum01 = _mm512_add_epi32(_mm512_unpacklo_epi32(dot[0], dot[1]),
                                         _mm512_unpackhi_epi32(dot[0], dot[1]));
  const __m512i sum23 = _mm512_add_epi32(_mm512_unpacklo_epi32(dot[2], dot[3]),
                                         _mm512_unpackhi_epi32(dot[2], dot[3]));
  const __m512i sums =
      _mm512_add_epi32(_mm512_unpacklo_epi64(sum01, sum23), _mm512_unpackhi_epi64(sum01, sum23));
  // Quarters: rows 0-3 twice, rows 4-7 twice.
  const __m512i folded = _mm512_add_epi32(sums, _mm512_shuffle_i64x2(sums, sums, 0xb1));
  return _mm512_castsi512_si256(_mm512_shuffle_i64x2(folded, folded, 0x08));
}

#else

using GroupBytes = RunGroup;
HWY_INLINE const GroupBytes& Prepare(const RunGroup& group) { return group; }

HWY_INLINE __m256i DotGroup(const GroupBytes& weights, const int8_t* x) {
  const auto* words = reinterpret_cast<const __m256i*>(x);
  const __m256i x_first = _mm256_loadu_si256(words), x_second = _mm256_loadu_si256(words + 1);
  // In the order in which unpacking, which works per 128-bit half, leaves the weights.
  const __m256i x_low = _mm256_permute2x128_si256(x_first, x_second, 0x20);
  const __m256i x_high = _mm256_permute2x128_si256(x_first, x_second, 0x31);
  const __m256i zero = _mm256_setzero_si256();
  __m256i dot[kGroupRows];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kGroupRows; ++r) {
    dot[r] =
        _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi8(weights.bytes[r], zero), x_low),
                         _mm256_madd_epi16(_mm256_unpackhi_epi8(weights.bytes[r], zero), x_high));
  }
  const __m256i low =
      _mm256_hadd_epi32(_mm256_hadd_epi32(dot[0], dot[1]), _mm256_hadd_epi32(dot[2], dot[3]));
  const __m256i high =
      _mm256_hadd_epi32(_mm256_hadd_epi32(dot[4], dot[5]), _mm256_hadd_epi32(dot[6], dot[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                          _mm256_permute2x128_si256(low, high, 0x31));
}

#endif

// Eight weight rows, of which `count` are wanted, with kRows rows of x.
template <WeightFormat kFormat, size_t kRows>
HWY_INLINE void GroupKernel(const PackedRowsArgs& args, const GroupRows& rows, size_t first_row,
                            size_t n, size_t count) {
  const size_t cols = args.weights->cols, num_runs = cols / kByteRun;
  const size_t row_bytes = args.weights->row_bytes();
  const int8_t* x = args.x_bytes + first_row * num_runs * kRoundedRunBytes;
  const float* steps = args.x_scales + first_row * num_runs * 2;
  __m256 sum[kRows];
  HWY_UNROLL(8)
  for (size_t m = 0; m < kRows; ++m) sum[m] = _mm256_setzero_ps();
  for (size_t run = 0; run < num_runs; ++run) {
    PrefetchNextGroup<kFormat>(rows, row_bytes, run);
    RunGroup group;
    LoadGroup<kFormat>(rows, run, &group);
    const GroupBytes& weights = Prepare(group);
    HWY_UNROLL(4)
    for (size_t m = 0; m < kRows; ++m) {
      const __m256 dot =
          _mm256_cvtepi32_ps(DotGroup(weights, x + (m * num_runs + run) * kRoundedRunBytes));
      const float* step = steps + (m * num_runs + run) * 2;
      sum[m] = _mm256_fmadd_ps(dot, _mm256_mul_ps(group.scales, _mm256_broadcast_ss(step)), sum[m]);
      sum[m] = _mm256_fmadd_ps(group.minimums, _mm256_broadcast_ss(step + 1), sum[m]);
    }
  }
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
  switch (args.weights->format) {
    case WeightFormat::kQ4_0: return FormatRows<WeightFormat::kQ4_0>(args);
    case WeightFormat::kQ4_1: return FormatRows<WeightFormat::kQ4_1>(args);
    case WeightFormat::kQ8_0: return FormatRows<WeightFormat::kQ8_0>(args);
    case WeightFormat::kQ4_K: return FormatRows<WeightFormat::kQ4_K>(args);
    case WeightFormat::kQ5_K: return FormatRows<WeightFormat::kQ5_K>(args);
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBf16:
    case WeightFormat::kQ6_K: assert(false);
  }
}

void RoundRow(const float* x, size_t cols, int8_t* bytes, float* scales) {
  for (size_t i = 0; i < cols; i += kByteRun) {
    RoundRun(x + i, bytes + 2 * i, scales + i / kByteRun * 2);
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
