#include <algorithm>
#include <cassert>

#include "kernels/cpu/product_tiles.h"
#include "kernels/weight_blocks.h"

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

// The eight words of each row of a run.
HWY_INLINE void WordsOf(const RunGroup& group, __m256i (&words)[8]) {
  Transpose(group.halves[0], words);
  Transpose(group.halves[1], words + 4);
}

template <WeightFormat kFormat>
void ByteGroup(size_t scales_per_run, const WeightView& weights, size_t row, size_t tile_row,
               std::byte* tile) {
  const GroupRows rows = RowsAt(weights, row, kGroupRows);
  const auto store = [&](size_t, const RunGroup& group) HWY_ATTR __attribute__((always_inline)) {
    __m256i words[8];
    WordsOf(group, words);
    HWY_UNROLL(8)
    for (size_t s = 0; s < 8; ++s) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(tile + (s * kTileRows + tile_row) * 4),
                         words[s]);
    }
    auto* scales = reinterpret_cast<float*>(tile + kTileRows * kByteRun) + tile_row;
    for (size_t h = 0; h < scales_per_run; ++h, scales += 2 * kTileRows) {
      const size_t half = std::min(h, ScalesPerRun(kFormat) - 1);
      _mm256_store_ps(scales, group.scales.scale[half]);
      _mm256_store_ps(scales + kTileRows, group.scales.minimum[half]);
    }
    tile += ByteTileRunBytes(scales_per_run);
  };
  ForEachRun<kFormat>(weights, rows, store);
}

template <WeightFormat kFormat>
void FloatGroup(const WeightView& weights, size_t row, size_t tile_row, std::byte* tile) {
  const GroupRows rows = RowsAt(weights, row, kGroupRows);
  float* out = reinterpret_cast<float*>(tile) + tile_row;
  const auto store = [&](size_t, const RunGroup& group) HWY_ATTR __attribute__((always_inline)) {
    __m256i words[8];
    WordsOf(group, words);
    HWY_UNROLL(8)
    for (size_t s = 0; s < 8; ++s) {
      const size_t half = s / 4 * (ScalesPerRun(kFormat) - 1);
      HWY_UNROLL(4)
      for (int c = 0; c < 4; ++c, out += kTileRows) {
        const __m256i bytes =
            _mm256_and_si256(_mm256_srli_epi32(words[s], 8 * c), _mm256_set1_epi32(255));
        _mm256_store_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(bytes), group.scales.scale[half],
                                             group.scales.minimum[half]));
      }
    }
  };
  ForEachRun<kFormat>(weights, rows, store);
}

void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile) {
  WithQuantizedFormat(weights.format, [&](auto format) {
    constexpr WeightFormat kFormat = decltype(format)::value;
    if (layout == TileLayout::kFloats) return FloatGroup<kFormat>(weights, row, tile_row, tile);
    ByteGroup<kFormat>(ScalesPerRun(layout), weights, row, tile_row, tile);
  });
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
