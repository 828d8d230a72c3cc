// Products of bf16 weights with activations rounded to bf16, pairs of which AVX512-BF16 multiplies
// and adds up in float32, twice as many as float32 at a time. Highway 1.0.3 does not have it, hence
// intrinsics.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/product_tiles.h"

#define KVSHIP_WITH_BF16
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bf16_pairs.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/packed_rows-inl.h"
#include "kernels/cpu/word_tiles-inl.h"

#if HWY_TARGET == HWY_AVX3
#include <immintrin.h>
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX3

using Words = hn::Vec<hn::ScalableTag<float>>;

struct PairWords {
  static HWY_INLINE Words Add(Words sum, Words weights, Words x) {
    return Words{_mm512_dpbf16_ps(sum.raw, (__m512bh)weights.raw, (__m512bh)x.raw)};
  }
};

void Bf16TileProduct(const TileProductArgs& args) { WordProduct<PairWords>(args); }

struct PairProducts {
  using Weight = bf16;
  using X = bf16;
  static constexpr size_t kStep = 32;
  static HWY_INLINE __m512bh Load(const bf16* weights) {
    return (__m512bh)_mm512_loadu_si512(weights);
  }
  static HWY_INLINE Words Add(Words sum, __m512bh weights, const bf16* x) {
    return Words{_mm512_dpbf16_ps(sum.raw, weights, Load(x))};
  }
  static HWY_INLINE const bf16* Row(const PackedRowsArgs& args, size_t m) {
    return args.x_bf16 + m * args.weights->cols;
  }
};

void PackedRowsBf16(const PackedRowsArgs& args) { PlainRows<PairProducts>(args); }

// 32 elements of x, the first `count` of them, the others zero.
HWY_INLINE __m512i Round32(const float* x, size_t count) {
  if (count >= 32) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
  }
  alignas(64) float padded[32] = {};
  std::memcpy(padded, x, count * sizeof(float));
  return Round32(padded, 32);
}

void RoundToBf16(const float* x, size_t cols, bf16* out) {
  size_t i = 0;
  for (; i + 32 <= cols; i += 32) _mm512_storeu_si512(out + i, Round32(x + i, 32));
  if (i == cols) return;
  alignas(64) bf16 rest[32];
  _mm512_store_si512(rest, Round32(x + i, cols - i));
  std::copy_n(rest, cols - i, out + i);
}

void Bf16Panels(const float* x, size_t x_stride, size_t num_rows, size_t cols, float* words) {
  const size_t panel_size = WordPanelSize(WordsOf(TileLayout::kBf16Pairs, cols));
  for (size_t row = 0; row < num_rows; ++row, x += x_stride) {
    float* to = words + row / kWordPanelRows * panel_size + row % kWordPanelRows * kChunkWords;
    for (size_t begin = 0; begin < cols; begin += 2 * kChunkWords) {
      _mm512_storeu_si512(to, Round32(x + begin, cols - begin));
      to += kWordPanelRows * kChunkWords;
    }
  }
}

bool HasBf16Pairs() { return __builtin_cpu_supports("avx512bf16"); }

#else

void Bf16TileProduct(const TileProductArgs&) { assert(false); }
void PackedRowsBf16(const PackedRowsArgs&) { assert(false); }
void RoundToBf16(const float*, size_t, bf16*) { assert(false); }
void Bf16Panels(const float*, size_t, size_t, size_t, float*) { assert(false); }
bool HasBf16Pairs() { return false; }

#endif  // AVX-512
}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(Bf16TileProduct);
HWY_EXPORT(PackedRowsBf16);
HWY_EXPORT(RoundToBf16);
HWY_EXPORT(Bf16Panels);
HWY_EXPORT(HasBf16Pairs);

void Bf16TileProduct(const TileProductArgs& args) { HWY_DYNAMIC_DISPATCH(Bf16TileProduct)(args); }

void PackedRowsBf16(const PackedRowsArgs& args) { HWY_DYNAMIC_DISPATCH(PackedRowsBf16)(args); }

void RoundToBf16(const float* x, size_t cols, bf16* out) {
  HWY_DYNAMIC_DISPATCH(RoundToBf16)(x, cols, out);
}

void Bf16Panels(const float* x, size_t x_stride, size_t num_rows, size_t cols, float* words) {
  HWY_DYNAMIC_DISPATCH(Bf16Panels)(x, x_stride, num_rows, cols, words);
}

bool HasBf16Pairs() { return HWY_DYNAMIC_DISPATCH(HasBf16Pairs)(); }

}  // namespace kvship
#endif  // HWY_ONCE
