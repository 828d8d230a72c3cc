#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/product_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/byte_tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/finish_row-inl.h"
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

// Rows missing from the last panel are left alone.
void RoundPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols,
                 const RoundedRows& rounded) {
  const size_t runs = cols / kByteRun;
  for (size_t row = 0; row < num_rows; ++row, x += x_stride) {
    const size_t panel = row / kPanelRows, r = row % kPanelRows;
    int8_t* bytes = rounded.bytes + panel * RoundedPanelBytes(cols) + r * kRoundedRunBytes;
    float* scales = rounded.scales + panel * RoundedPanelScales(cols) + r * kRoundedRunScales;
    for (size_t run = 0; run < runs; ++run) {
      RoundRun(x + run * kByteRun, bytes + run * kPanelRows * kRoundedRunBytes,
               scales + run * kPanelRows * kRoundedRunScales);
    }
  }
}

#if HWY_TARGET == HWY_AVX3

// Adds the products of kCount columns' bytes (16 weight rows in each vector) with `bytes` of kRows
// rows.
template <size_t kRows, size_t kCount>
HWY_INLINE void AddProducts(const std::byte* w, const int8_t* bytes, __m512i dot[kRows][2]) {
  HWY_UNROLL(8)
  for (size_t s = 0; s < kCount / 4; ++s, w += kTileRows * 4) {
    const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
    HWY_UNROLL(8)
    for (size_t r = 0; r < kRows; ++r) {
      int32_t four;
      std::memcpy(&four, bytes + r * kRoundedRunBytes + 4 * s, sizeof(four));
      dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w0, _mm512_set1_epi32(four));
      dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w1, _mm512_set1_epi32(four));
    }
  }
}

// One tile for kRows rows of a panel.
template <size_t kScales, size_t kRows>
HWY_INLINE void ByteKernel(const std::byte* tile, const int8_t* x, const float* x_scales,
                           size_t num_runs, float* sums) {
  constexpr size_t kCount = kByteRun / kScales;  // columns that share a scale
  __m512 sum[kRows][2];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  for (size_t run = 0; run < num_runs; ++run) {
    const auto* scales = reinterpret_cast<const float*>(tile + kTileRows * kByteRun);
    HWY_UNROLL(2)
    for (size_t h = 0; h < kScales; ++h, scales += 2 * kTileRows) {
      const std::byte* bytes = tile + h * kTileRows * kCount;
      __m512i dot[kRows][2];
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = _mm512_setzero_si512();
      AddProducts<kRows, kCount>(bytes, x + h * kCount, dot);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        dot[r][0] = _mm512_slli_epi32(dot[r][0], 8);
        dot[r][1] = _mm512_slli_epi32(dot[r][1], 8);
      }
      AddProducts<kRows, kCount>(bytes, x + kByteRun + h * kCount, dot);
      const __m512 scale0 = _mm512_load_ps(scales), scale1 = _mm512_load_ps(scales + 16);
      const __m512 min0 = _mm512_load_ps(scales + kTileRows);
      const __m512 min1 = _mm512_load_ps(scales + kTileRows + 16);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        const float* x_scale = x_scales + r * kRoundedRunScales;
        const __m512 step = _mm512_set1_ps(x_scale[0]);
        const __m512 total = _mm512_set1_ps(x_scale[RoundedSumAt(kScales, h)]);
        sum[r][0] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][0]), _mm512_mul_ps(scale0, step), sum[r][0]);
        sum[r][1] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][1]), _mm512_mul_ps(scale1, step), sum[r][1]);
        sum[r][0] = _mm512_fmadd_ps(min0, total, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(min1, total, sum[r][1]);
      }
    }
    tile += ByteTileRunBytes(kScales);
    x += kPanelRows * kRoundedRunBytes;
    x_scales += kPanelRows * kRoundedRunScales;
  }
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    _mm512_store_ps(sums + r * kTileRows, sum[r][0]);
    _mm512_store_ps(sums + r * kTileRows + 16, sum[r][1]);
  }
}

template <size_t kScales>
HWY_INLINE void BytePanel(size_t rows, const std::byte* tile, const int8_t* x,
                          const float* x_scales, size_t runs, float* sums) {
  switch (rows) {
    case 1: return ByteKernel<kScales, 1>(tile, x, x_scales, runs, sums);
    case 2: return ByteKernel<kScales, 2>(tile, x, x_scales, runs, sums);
    case 3: return ByteKernel<kScales, 3>(tile, x, x_scales, runs, sums);
    case 4: return ByteKernel<kScales, 4>(tile, x, x_scales, runs, sums);
    case 5: return ByteKernel<kScales, 5>(tile, x, x_scales, runs, sums);
    case 6: return ByteKernel<kScales, 6>(tile, x, x_scales, runs, sums);
    default: assert(false);
  }
}

template <size_t kScales>
void TileProduct(const TileProductArgs& args) {
  alignas(64) float sums[kPanelRows * kTileRows];
  const size_t runs = args.cols / kByteRun;
  for (size_t column = 0; column < args.weight_rows; column += kTileRows) {
    const std::byte* tile = args.tiles + column / kTileRows * TileBytes(args.layout, args.cols);
    const size_t count = std::min(kTileRows, args.weight_rows - column);
    for (size_t row = 0, panel = 0; row < args.num_rows; ++panel) {
      const size_t rows = std::min(kPanelRows, args.num_rows - row);
      BytePanel<kScales>(rows, tile, args.rounded.bytes + panel * RoundedPanelBytes(args.cols),
                         args.rounded.scales + panel * RoundedPanelScales(args.cols), runs, sums);
      for (size_t r = 0; r < rows; ++r, ++row) {
        FinishRow(sums + r * kTileRows, count, args.accumulate,
                  args.y + row * args.y_stride + column);
      }
    }
  }
}

#else

// Panels that share the widening of a tile's bytes; their sums take 6 KiB.
constexpr size_t kPanelsTogether = 8;

// The type that GCC's own functions have for 32-bit lanes: sums kept as __m256i, whose lanes it
// takes for 64-bit ones, go through memory at each step.
typedef int32_t Ints __attribute__((vector_size(32)));

// A run's bytes as 16-bit integers: words [kByteRun / 2][kTileRows][2], columns 2s and 2s + 1 of
// each row.
HWY_INLINE void WidenRun(const std::byte* tile, int16_t* words) {
  const __m256i first_pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  const __m256i second_pair = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
  for (size_t s = 0; s < kByteRun / 4; ++s, tile += kTileRows * 4, words += kTileRows * 4) {
    for (size_t row = 0; row < kTileRows; row += 8) {
      const __m256i bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(tile + row * 4));
      auto* out = reinterpret_cast<__m256i*>(words + row * 2);
      _mm256_store_si256(out, _mm256_shuffle_epi8(bytes, first_pair));
      _mm256_store_si256(out + kTileRows / 8, _mm256_shuffle_epi8(bytes, second_pair));
    }
  }
}

// Adds the products of kCount columns of 16 weight rows, from `words` on, with kRows rows of a
// panel to sums [kRows][kTileRows]. `totals` has the sums of x that go with the minimums. A product
// stays below 255 * 32512 < 2^23, and a run's 32 of them below 2^28.
template <size_t kCount, size_t kRows>
HWY_INLINE void AddColumns(const int16_t* words, const float* scales, const int8_t* x,
                           const float* steps, const float* totals, float* sums) {
  Ints dot[kRows][2];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = Ints{};
  HWY_UNROLL(1)  // unrolled, GCC reorders the sums and runs out of registers
  for (size_t s = 0; s < kCount / 2; ++s, words += kTileRows * 2) {
    const auto* w = reinterpret_cast<const __m256i*>(words);
    const __m256i w0 = _mm256_load_si256(w), w1 = _mm256_load_si256(w + 1);
    HWY_UNROLL(8)
    for (size_t r = 0; r < kRows; ++r) {
      int32_t two;
      std::memcpy(&two, x + r * kRoundedRunBytes + 4 * s, sizeof(two));
      const __m256i pair = _mm256_set1_epi32(two);
      dot[r][0] += (Ints)_mm256_madd_epi16(w0, pair);
      dot[r][1] += (Ints)_mm256_madd_epi16(w1, pair);
    }
  }
  const float* minimums = scales + kTileRows;
  const __m256 scale0 = _mm256_load_ps(scales), scale1 = _mm256_load_ps(scales + 8);
  const __m256 min0 = _mm256_load_ps(minimums), min1 = _mm256_load_ps(minimums + 8);
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r, sums += kTileRows) {
    const __m256 step = _mm256_set1_ps(steps[r * kRoundedRunScales]);
    const __m256 total = _mm256_set1_ps(totals[r * kRoundedRunScales]);
    const __m256 sum0 = _mm256_fmadd_ps(_mm256_cvtepi32_ps((__m256i)dot[r][0]),
                                        _mm256_mul_ps(scale0, step), _mm256_load_ps(sums));
    const __m256 sum1 = _mm256_fmadd_ps(_mm256_cvtepi32_ps((__m256i)dot[r][1]),
                                        _mm256_mul_ps(scale1, step), _mm256_load_ps(sums + 8));
    _mm256_store_ps(sums, _mm256_fmadd_ps(min0, total, sum0));
    _mm256_store_ps(sums + 8, _mm256_fmadd_ps(min1, total, sum1));
  }
}

template <size_t kCount>
HWY_INLINE void AddColumnsOfRows(size_t rows, const int16_t* words, const float* scales,
                                 const int8_t* x, const float* steps, const float* totals,
                                 float* sums) {
  switch (rows) {
    case 1: return AddColumns<kCount, 1>(words, scales, x, steps, totals, sums);
    case 2: return AddColumns<kCount, 2>(words, scales, x, steps, totals, sums);
    case 3: return AddColumns<kCount, 3>(words, scales, x, steps, totals, sums);
    case 4: return AddColumns<kCount, 4>(words, scales, x, steps, totals, sums);
    case 5: return AddColumns<kCount, 5>(words, scales, x, steps, totals, sums);
    case 6: return AddColumns<kCount, 6>(words, scales, x, steps, totals, sums);
    default: assert(false);
  }
}

// One tile with `rows` rows from a panel's first on, up to kPanelsTogether panels of them; sums
// [rows][kTileRows].
template <size_t kScales>
void WordKernel(size_t rows, const std::byte* tile, const int8_t* x, const float* x_scales,
                size_t num_runs, float* sums) {
  constexpr size_t kCount = kByteRun / kScales;  // columns that share a scale
  alignas(64) int16_t words[kByteRun * kTileRows];
  std::fill_n(sums, rows * kTileRows, 0.0f);
  for (size_t run = 0; run < num_runs; ++run, tile += ByteTileRunBytes(kScales)) {
    WidenRun(tile, words);
    const auto* scales = reinterpret_cast<const float*>(tile + kTileRows * kByteRun);
    for (size_t row = 0, at = run; row < rows; row += kPanelRows, at += num_runs) {
      const int8_t* panel = x + at * kPanelRows * kRoundedRunBytes;
      const float* steps = x_scales + at * kPanelRows * kRoundedRunScales;
      const size_t panel_rows = std::min(kPanelRows, rows - row);
      for (size_t h = 0; h < kScales; ++h) {
        for (size_t half = 0; half < kTileRows; half += kTileRows / 2) {
          AddColumnsOfRows<kCount>(panel_rows, words + h * kTileRows * kCount + half * 2,
                                   scales + h * 2 * kTileRows + half, panel + h * kCount * 2, steps,
                                   steps + RoundedSumAt(kScales, h), sums + row * kTileRows + half);
        }
      }
    }
  }
}

template <size_t kScales>
void TileProduct(const TileProductArgs& args) {
  constexpr size_t kRows = kPanelsTogether * kPanelRows;
  alignas(64) float sums[kRows * kTileRows];
  const size_t runs = args.cols / kByteRun;
  for (size_t column = 0; column < args.weight_rows; column += kTileRows) {
    const std::byte* tile = args.tiles + column / kTileRows * TileBytes(args.layout, args.cols);
    const size_t count = std::min(kTileRows, args.weight_rows - column);
    for (size_t first = 0; first < args.num_rows; first += kRows) {
      const size_t rows = std::min(kRows, args.num_rows - first), panel = first / kPanelRows;
      WordKernel<kScales>(rows, tile, args.rounded.bytes + panel * RoundedPanelBytes(args.cols),
                          args.rounded.scales + panel * RoundedPanelScales(args.cols), runs, sums);
      for (size_t r = 0; r < rows; ++r) {
        FinishRow(sums + r * kTileRows, count, args.accumulate,
                  args.y + (first + r) * args.y_stride + column);
      }
    }
  }
}

#endif

void ByteTileProduct(const TileProductArgs& args) {
  if (args.layout == TileLayout::kBytes) return TileProduct<1>(args);
  if (args.layout == TileLayout::kBytesInHalves) return TileProduct<2>(args);
  assert(false);
}

#else

void RoundPanels(const float*, size_t, size_t, size_t, const RoundedRows&) { assert(false); }
void ByteTileProduct(const TileProductArgs&) { assert(false); }

#endif  // AVX2 or AVX-512

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(RoundPanels);
HWY_EXPORT(ByteTileProduct);

// The AVX-512 forms are compiled with VNNI, which the first AVX-512 processors lack.
void RoundPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols,
                 const RoundedRows& rounded) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::RoundPanels(x, x_stride, num_rows, cols, rounded);
#endif
  HWY_DYNAMIC_DISPATCH(RoundPanels)(x, x_stride, num_rows, cols, rounded);
}

void ByteTileProduct(const TileProductArgs& args) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::ByteTileProduct(args);
#endif
  HWY_DYNAMIC_DISPATCH(ByteTileProduct)(args);
}

}  // namespace kvship
#endif  // HWY_ONCE
