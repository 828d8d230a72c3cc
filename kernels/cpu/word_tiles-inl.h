// Products with word tiles (product_tiles.h), compiled once per Highway target. Op says what a word
// is:
//
//   Add(sum, weights, x)   sum + weights * x, each lane a word
//
// The file that includes this defines KVSHIP_WITH_BF16 if its Op takes AVX512-BF16.

#if defined(KVSHIP_KERNELS_CPU_WORD_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_WORD_TILES_INL_H_
#undef KVSHIP_KERNELS_CPU_WORD_TILES_INL_H_
#else
#define KVSHIP_KERNELS_CPU_WORD_TILES_INL_H_
#endif

#include <algorithm>
#include <cassert>
#include <cstddef>

#include "hwy/highway.h"
#include "kernels/cpu/finish_row-inl.h"
#include "kernels/cpu/product_tiles.h"

#if defined(KVSHIP_WITH_BF16) && HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One tile for kRows rows of a panel; each sum runs over the words in order.
template <class Op, size_t kRows>
HWY_INLINE void WordKernel(const float* tile, const float* x, size_t num_words, float* sums) {
  const hn::CappedTag<float, kTileRows / 2> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  for (size_t column = 0; column < kTileRows; column += 2 * lanes) {
    V sum[kRows][2];
    for (size_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = hn::Zero(d);
    const float* HWY_RESTRICT w = tile + column;
    const float* HWY_RESTRICT chunk = x;
    for (size_t left = num_words; left > 0; chunk += kWordPanelRows * kChunkWords) {
      const size_t count = std::min(left, kChunkWords);
      left -= count;
      for (size_t k = 0; k < count; ++k, w += kTileRows) {
        const V w0 = hn::Load(d, w), w1 = hn::Load(d, w + lanes);
        HWY_UNROLL(12)
        for (size_t r = 0; r < kRows; ++r) {
          const V xk = hn::Set(d, chunk[r * kChunkWords + k]);
          sum[r][0] = Op::Add(sum[r][0], w0, xk);
          sum[r][1] = Op::Add(sum[r][1], w1, xk);
        }
      }
    }
    for (size_t r = 0; r < kRows; ++r) {
      hn::Store(sum[r][0], d, sums + r * kTileRows + column);
      hn::Store(sum[r][1], d, sums + r * kTileRows + column + lanes);
    }
  }
}

template <class Op>
HWY_INLINE void WordPanel(size_t rows, const float* tile, const float* x, size_t num_words,
                          float* sums) {
  switch (rows) {
    case 1: return WordKernel<Op, 1>(tile, x, num_words, sums);
    case 2: return WordKernel<Op, 2>(tile, x, num_words, sums);
    case 3: return WordKernel<Op, 3>(tile, x, num_words, sums);
    case 4: return WordKernel<Op, 4>(tile, x, num_words, sums);
    case 5: return WordKernel<Op, 5>(tile, x, num_words, sums);
    case 6: return WordKernel<Op, 6>(tile, x, num_words, sums);
#if HWY_CAP_GE512  // twice the registers
    case 12: return WordKernel<Op, 12>(tile, x, num_words, sums);
#endif
    default: assert(false);
  }
}

template <class Op>
HWY_INLINE void WordProduct(const TileProductArgs& args) {
  constexpr size_t kRows = HWY_CAP_GE512 ? kWordPanelRows : kWordPanelRows / 2;
  alignas(64) float sums[kRows * kTileRows];
  const size_t num_words = WordsOf(args.layout, args.cols);
  for (size_t column = 0; column < args.weight_rows; column += kTileRows) {
    const auto* tile = reinterpret_cast<const float*>(
        args.tiles + column / kTileRows * TileBytes(args.layout, args.cols));
    const size_t count = std::min(kTileRows, args.weight_rows - column);
    for (size_t row = 0; row < args.num_rows;) {
      const size_t left = args.num_rows - row;
      const size_t rows = left >= kRows ? kRows : std::min(left, kWordPanelRows / 2);
      const float* panel = args.words + row / kWordPanelRows * WordPanelSize(num_words) +
                           row % kWordPanelRows * kChunkWords;
      WordPanel<Op>(rows, tile, panel, num_words, sums);
      for (size_t r = 0; r < rows; ++r, ++row) {
        FinishRow(sums + r * kTileRows, count, args.accumulate,
                  args.y + row * args.y_stride + column);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_WORD_TILES_INL_H_
