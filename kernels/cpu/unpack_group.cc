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
HWY_INLINE void WordsOfRun(const RunGroup& group, __m256i (&words)[8]) {
  Transpose(group.halves[0], words);
  Transpose(group.halves[1], words + 4);
}

template <WeightFormat kFormat>
void ByteGroup(size_t scales_per_run, const WeightView& weights, size_t row, size_t tile_row,
               std::byte* tile) {
  const GroupRows rows = RowsAt(weights, row, kGroupRows);
  const auto store = [&](size_t, const RunGroup& group) HWY_ATTR __attribute__((always_inline)) {
    __m256i words[8];
    WordsOfRun(group, words);
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
    WordsOfRun(group, words);
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

// Eight words of a tile: floats, or pairs of bf16 as they are.
HWY_INLINE __m256i LoadWords(const float* from) {
  return _mm256_castps_si256(_mm256_loadu_ps(from));
}
HWY_INLINE __m256i LoadWords(const f16* from) {
  return _mm256_castps_si256(
      _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
HWY_INLINE __m256i LoadWords(const bf16* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
}
struct Pair {
  bf16 elements[2];
};
HWY_INLINE __m256i LoadWords(const Pair* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

template <class T>
void WordGroup(const WeightView& weights, size_t row, size_t tile_row, std::byte* tile) {
  const T* rows[kGroupRows];
  for (size_t r = 0; r < kGroupRows; ++r) {
    rows[r] = reinterpret_cast<const T*>(weights.data + (row + r) * weights.row_bytes());
  }
  tile += tile_row * sizeof(float);
  for (size_t i = 0; i < weights.row_bytes() / sizeof(T); i += 8) {
    __m256i pairs[2][4], words[8];
    HWY_UNROLL(4)
    for (size_t r = 0; r < 4; ++r) {
      const __m256i a = LoadWords(rows[r] + i), b = LoadWords(rows[r + 4] + i);
      pairs[0][r] = _mm256_permute2x128_si256(a, b, 0x20);
      pairs[1][r] = _mm256_permute2x128_si256(a, b, 0x31);
    }
    Transpose(pairs[0], words);
    Transpose(pairs[1], words + 4);
    HWY_UNROLL(8)
    for (size_t s = 0; s < 8; ++s, tile += kTileRows * sizeof(float)) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(tile), words[s]);
    }
  }
}

void UnpackGroup(TileLayout layout, const WeightView& weights, size_t row, size_t tile_row,
                 std::byte* tile) {
  if (layout == TileLayout::kBf16Pairs) return WordGroup<Pair>(weights, row, tile_row, tile);
  switch (weights.format) {
    case WeightFormat::kF32: return WordGroup<float>(weights, row, tile_row, tile);
    case WeightFormat::kF16: return WordGroup<f16>(weights, row, tile_row, tile);
    case WeightFormat::kBf16: return WordGroup<bf16>(weights, row, tile_row, tile);
    default: break;
  }
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
