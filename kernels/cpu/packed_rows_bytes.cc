#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/quantized_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/packed_rows_bytes.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/byte_dot-inl.h"
#include "kernels/cpu/processor.h"

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

// 32 weights in a register, and their scale and minimum in the first two lanes of another.
struct RunVector {
  __m256i bytes;
  __m128 pair;
};

// Eight sums of four products. Bytes up to 127 at most: two products fit in 16 bits.
HWY_INLINE __m256i DotUnsigned(__m256i weights, __m256i x) {
#if HWY_TARGET == HWY_AVX3
  return _mm256_dpbusd_epi32(_mm256_setzero_si256(), weights, x);
#else
  return _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1));
#endif
}

HWY_INLINE __m256i Nibbles(const std::byte* packed) {
  const __m256i both =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)));
  const __m256i shifted = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

// A pair (scale, factor * scale).
HWY_INLINE __m128 ScalePair(const std::byte* scale, float factor) {
  uint16_t bits;
  std::memcpy(&bits, scale, sizeof(bits));
  const __m128 both = _mm_cvtph_ps(_mm_set1_epi16(static_cast<short>(bits)));
  return _mm_mul_ps(both, _mm_setr_ps(1.0f, factor, 0.0f, 0.0f));
}

// How each format's runs become vectors: kRuns at a time, from blocks of kBytes.
struct RunsQ4_0 {
  static constexpr size_t kRuns = 1, kBytes = 18;
  static HWY_INLINE void Load(const std::byte* block, RunVector* run) {
    *run = {Nibbles(block + 2), ScalePair(block, -8.0f)};
  }
  static HWY_INLINE __m256i Dot(__m256i weights, __m256i x) { return DotUnsigned(weights, x); }
};

struct RunsQ4_1 {
  static constexpr size_t kRuns = 1, kBytes = 20;
  static HWY_INLINE void Load(const std::byte* block, RunVector* run) {
    int32_t bits;
    std::memcpy(&bits, block, sizeof(bits));
    *run = {Nibbles(block + 4), _mm_cvtph_ps(_mm_cvtsi32_si128(bits))};
  }
  static HWY_INLINE __m256i Dot(__m256i weights, __m256i x) { return DotUnsigned(weights, x); }
};

// The weights stay signed: their magnitudes are multiplied with activations that take their sign.
struct RunsQ8_0 {
  static constexpr size_t kRuns = 1, kBytes = 34;
  static HWY_INLINE void Load(const std::byte* block, RunVector* run) {
    *run = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2)), ScalePair(block, 0)};
  }
  static HWY_INLINE __m256i Dot(__m256i weights, __m256i x) {
    return DotUnsigned(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
  }
};

template <WeightFormat kFormat>
struct RunsK {
  static constexpr size_t kRuns = 8, kBytes = BlockOf(kFormat).num_bytes;
  static HWY_INLINE void Load(const std::byte* block, RunVector* runs) {
    for (size_t i = 0; i < kRuns; ++i) {
      ByteRun run;
      LoadByteRun(kFormat, block, i, &run);
      runs[i] = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(run.bytes)),
                 _mm_setr_ps(run.scale, run.minimum, 0.0f, 0.0f)};
    }
  }
  static HWY_INLINE __m256i Dot(__m256i weights, __m256i x) { return DotUnsigned(weights, x); }
};

HWY_INLINE float SumLanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// One weight row with kRows rows of x.
template <class Runs, size_t kRows>
HWY_INLINE void DotRow(const PackedRowsArgs& args, const std::byte* weights, size_t first_row,
                       size_t n) {
  const size_t cols = args.weights->cols, num_runs = cols / kByteRun;
  const int8_t* x = args.x_bytes + first_row * cols;
  const float* scales = args.x_scales + first_row * num_runs * 2;
  __m256 sum[kRows];
  __m128 minimum[kRows];  // lane 1
  for (size_t m = 0; m < kRows; ++m) {
    sum[m] = _mm256_setzero_ps();
    minimum[m] = _mm_setzero_ps();
  }
  for (size_t run = 0; run < num_runs; run += Runs::kRuns, weights += Runs::kBytes) {
    RunVector vectors[Runs::kRuns];
    Runs::Load(weights, vectors);
    HWY_UNROLL(8)
    for (size_t i = 0; i < Runs::kRuns; ++i) {
      HWY_UNROLL(4)
      for (size_t m = 0; m < kRows; ++m) {
        const __m256i xv = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(x + m * cols + (run + i) * kByteRun));
        const __m128 xs = _mm_castsi128_ps(_mm_loadl_epi64(
            reinterpret_cast<const __m128i*>(scales + (m * num_runs + run + i) * 2)));
        const __m256 dot = _mm256_cvtepi32_ps(Runs::Dot(vectors[i].bytes, xv));
        const __m128 factors = _mm_mul_ps(vectors[i].pair, xs);
        sum[m] = _mm256_fmadd_ps(dot, _mm256_broadcastss_ps(factors), sum[m]);
        minimum[m] = _mm_add_ps(minimum[m], factors);
      }
    }
  }
  for (size_t m = 0; m < kRows; ++m) {
    float* y = args.y + (first_row + m) * args.y_stride + n;
    const float total = SumLanes(sum[m]) + _mm_cvtss_f32(_mm_movehdup_ps(minimum[m]));
    *y = args.accumulate ? *y + total : total;
  }
}

template <class Runs>
void DotRows(const PackedRowsArgs& args) {
  const size_t row_bytes = args.weights->row_bytes();
  const std::byte* weights = args.weights->data + args.begin * row_bytes;
  for (size_t n = 0; n < args.count; ++n, weights += row_bytes) {
    size_t m = 0;
    for (; m + 4 <= args.num_rows; m += 4) DotRow<Runs, 4>(args, weights, m, n);
    switch (args.num_rows - m) {
      case 1: DotRow<Runs, 1>(args, weights, m, n); break;
      case 2: DotRow<Runs, 2>(args, weights, m, n); break;
      case 3: DotRow<Runs, 3>(args, weights, m, n); break;
      default: break;
    }
  }
}

void PackedRowsBytes(const PackedRowsArgs& args) {
  switch (args.weights->format) {
    case WeightFormat::kQ4_0: return DotRows<RunsQ4_0>(args);
    case WeightFormat::kQ4_1: return DotRows<RunsQ4_1>(args);
    case WeightFormat::kQ8_0: return DotRows<RunsQ8_0>(args);
    case WeightFormat::kQ4_K: return DotRows<RunsK<WeightFormat::kQ4_K>>(args);
    case WeightFormat::kQ5_K: return DotRows<RunsK<WeightFormat::kQ5_K>>(args);
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBf16:
    case WeightFormat::kQ6_K: assert(false);
  }
}

void RoundActivations(const float* x, size_t cols, int8_t* bytes, float* scales) {
  for (size_t i = 0; i < cols; i += kByteRun) {
    RoundRun(x + i, bytes + i, scales + i / kByteRun * 2);
  }
}

bool HasPackedRowsBytes() { return true; }

#else

void PackedRowsBytes(const PackedRowsArgs&) { assert(false); }
void RoundActivations(const float*, size_t, int8_t*, float*) { assert(false); }
bool HasPackedRowsBytes() { return false; }

#endif  // AVX2 or AVX-512
}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(PackedRowsBytes);
HWY_EXPORT(RoundActivations);
HWY_EXPORT(HasPackedRowsBytes);

// The AVX-512 form is compiled with VNNI, which the first AVX-512 processors lack.
void PackedRowsBytes(const PackedRowsArgs& args) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::PackedRowsBytes(args);
#endif
  HWY_DYNAMIC_DISPATCH(PackedRowsBytes)(args);
}

void RoundActivations(const float* x, size_t cols, int8_t* bytes, float* scales) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::RoundActivations(x, cols, bytes, scales);
#endif
  HWY_DYNAMIC_DISPATCH(RoundActivations)(x, cols, bytes, scales);
}

bool HasPackedRowsBytes() { return HWY_DYNAMIC_DISPATCH(HasPackedRowsBytes)(); }

}  // namespace kvship
#endif  // HWY_ONCE
