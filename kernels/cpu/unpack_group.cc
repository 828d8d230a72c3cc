#include <cassert>

#include "kernels/cpu/product_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/unpack_group.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/byte_rows-inl.h"
#include "kernels/cpu/processor.h"

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

// Turns eight rows of eight 32-bit words around: words[s] has word s of every row.
HWY_INLINE void Transpose(const __m256i* rows, __m256i* words) {
  __m256i pairs[kGroupRows], quads[kGroupRows];
  HWY_UNROLL(4)
  for (size_t i = 0; i < 4; ++i) {
    pairs[i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    pairs[i + 4] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  // quads[2 * s + h] holds words s (low half) and s + 4 (high half) of rows 4h .. 4h + 3.
  HWY_UNROLL(2)
  for (size_t h = 0; h < 2; ++h) {
    quads[h] = _mm256_unpacklo_epi64(pairs[2 * h], pairs[2 * h + 1]);
    quads[2 + h] = _mm256_unpackhi_epi64(pairs[2 * h], pairs[2 * h + 1]);
    quads[4 + h] = _mm256_unpacklo_epi64(pairs[4 + 2 * h], pairs[5 + 2 * h]);
    quads[6 + h] = _mm256_unpackhi_epi64(pairs[4 + 2 * h], pairs[5 + 2 * h]);
  }
  HWY_UNROLL(4)
  for (size_t s = 0; s < 4; ++s) {
    const __m256i first = quads[2 * s], second = quads[2 * s + 1];
    words[s] = _mm256_permute2x128_si256(first, second, 0x20);
    words[s + 4] = _mm256_permute2x128_si256(first, second, 0x31);
  }
}

template <WeightFormat kFormat>
void ByteGroup(const WeightView& weights, size_t row, size_t tile_row, std::byte* tile) {
  const GroupRows rows = RowsAt(weights, row, kGroupRows);
  for (size_t run = 0; run < weights.cols / kByteRun; ++run, tile += kByteTileRunBytes) {
    PrefetchNextGroup<kFormat>(rows, weights.row_bytes(), run);
    RunGroup group;
    LoadGroup<kFormat>(rows, run, &group);
    __m256i words[8];
    Transpose(group.bytes, words);
    HWY_UNROLL(8)
    for (size_t s = 0; s < 8; ++s) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(tile + (s * kTileRows + tile_row) * 4),
                         words[s]);
    }
    auto* scales = reinterpret_cast<float*>(tile + kTileRows * kByteRun) + tile_row;
    _mm256_store_ps(scales, group.scales);
    _mm256_store_ps(scales + kTileRows, group.minimums);
  }
}

template <WeightFormat kFormat>
void FloatGroup(const WeightView& weights, size_t row, size_t tile_row, std::byte* tile) {
  const GroupRows rows = RowsAt(weights, row, kGroupRows);
  float* out = reinterpret_cast<float*>(tile) + tile_row;
  for (size_t run = 0; run < weights.cols / kByteRun; ++run) {
    PrefetchNextGroup<kFormat>(rows, weights.row_bytes(), run);
    RunGroup group;
    LoadGroup<kFormat>(rows, run, &group);
    __m256i words[8];
    Transpose(group.bytes, words);
    HWY_UNROLL(8)
    for (size_t s = 0; s < 8; ++s) {
      HWY_UNROLL(4)
      for (int c = 0; c < 4; ++c, out += kTileRows) {
        const __m256i bytes =
            _mm256_and_si256(_mm256_srli_epi32(words[s], 8 * c), _mm256_set1_epi32(255));
        _mm256_store_ps(out,
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(bytes), group.scales, group.minimums));
      }
    }
  }
}

template <WeightFormat kFormat>
void FormatGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile) {
  const auto group = layout == TileLayout::kBytes ? ByteGroup<kFormat> : FloatGroup<kFormat>;
  group(weights, row, tile_row, tile);
}

void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile) {
  switch (weights.format) {
    case WeightFormat::kQ4_0:
      return FormatGroup<WeightFormat::kQ4_0>(layout, weights, row, tile_row, tile);
    case WeightFormat::kQ4_1:
      return FormatGroup<WeightFormat::kQ4_1>(layout, weights, row, tile_row, tile);
    case WeightFormat::kQ8_0:
      return FormatGroup<WeightFormat::kQ8_0>(layout, weights, row, tile_row, tile);
    case WeightFormat::kQ4_K:
      return FormatGroup<WeightFormat::kQ4_K>(layout, weights, row, tile_row, tile);
    case WeightFormat::kQ5_K:
      return FormatGroup<WeightFormat::kQ5_K>(layout, weights, row, tile_row, tile);
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBf16:
    case WeightFormat::kQ6_K: assert(false);
  }
}

#else

void UnpackGroup(TileLayout, const WeightView&, size_t, size_t, std::byte*) { assert(false); }

#endif  // AVX2 or AVX-512
}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(UnpackGroup);

// The AVX-512 form is compiled with VNNI, which the first AVX-512 processors lack.
void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::UnpackGroup(layout, weights, row, tile_row, tile);
#endif
  HWY_DYNAMIC_DISPATCH(UnpackGroup)(layout, weights, row, tile_row, tile);
}

}  // namespace kvship
#endif  // HWY_ONCE
