#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/product_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/float_tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/finish_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One tile's columns [0, 2 * lanes) for kRows rows of x; each sum runs over the columns in order.
template <size_t kRows>
HWY_INLINE void FloatKernel(const float* tile, const float* x, size_t x_stride, size_t cols,
                            float* sums) {
  const hn::CappedTag<float, kTileRows / 2> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  for (size_t column = 0; column < kTileRows; column += 2 * lanes) {
    V sum[kRows][2];
    for (size_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = hn::Zero(d);
    const float* HWY_RESTRICT w = tile + column;
    for (size_t k = 0; k < cols; ++k, w += kTileRows) {
      const V w0 = hn::Load(d, w), w1 = hn::Load(d, w + lanes);
      HWY_UNROLL(12)
      for (size_t r = 0; r < kRows; ++r) {
        const V xk = hn::Set(d, x[r * x_stride + k]);
        sum[r][0] = hn::MulAdd(w0, xk, sum[r][0]);
        sum[r][1] = hn::MulAdd(w1, xk, sum[r][1]);
      }
    }
    for (size_t r = 0; r < kRows; ++r) {
      hn::Store(sum[r][0], d, sums + r * kTileRows + column);
      hn::Store(sum[r][1], d, sums + r * kTileRows + column + lanes);
    }
  }
}

HWY_INLINE void FloatPanel(size_t rows, const float* tile, const float* x, size_t x_stride,
                           size_t cols, float* sums) {
  switch (rows) {
    case 1: return FloatKernel<1>(tile, x, x_stride, cols, sums);
    case 2: return FloatKernel<2>(tile, x, x_stride, cols, sums);
    case 3: return FloatKernel<3>(tile, x, x_stride, cols, sums);
    case 4: return FloatKernel<4>(tile, x, x_stride, cols, sums);
    case 5: return FloatKernel<5>(tile, x, x_stride, cols, sums);
    case 6: return FloatKernel<6>(tile, x, x_stride, cols, sums);
#if HWY_CAP_GE512  // twice the registers
    case 12: return FloatKernel<12>(tile, x, x_stride, cols, sums);
#endif
    default: assert(false);
  }
}

void FloatTileProduct(const TileProductArgs& args) {
  constexpr size_t kRows = HWY_CAP_GE512 ? 12 : 6;
  alignas(64) float sums[kRows * kTileRows];
  for (size_t column = 0; column < args.weight_rows; column += kTileRows) {
    const auto* tile = reinterpret_cast<const float*>(
        args.tiles + column / kTileRows * TileBytes(TileLayout::kFloats, args.cols));
    const size_t count = std::min(kTileRows, args.weight_rows - column);
    for (size_t row = 0; row < args.num_rows;) {
      const size_t left = args.num_rows - row;
      const size_t rows = left >= kRows ? kRows : std::min<size_t>(left, 6);
      FloatPanel(rows, tile, args.x + row * args.x_stride, args.x_stride, args.cols, sums);
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

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(FloatTileProduct);

void FloatTileProduct(const TileProductArgs& args) { HWY_DYNAMIC_DISPATCH(FloatTileProduct)(args); }

}  // namespace kvship
#endif  // HWY_ONCE
