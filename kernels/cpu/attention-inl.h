// What the attention and scoring kernels share, compiled once per SIMD target: exp2, and a product
// of a few rows with a block of vectors. The product keeps one output per lane and adds along D in
// order, so a number does not depend on which lane, block or SIMD width computed it.

#include <cstddef>

#include "hwy/highway.h"

#if defined(KVSHIP_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_ATTENTION_INL_H_
#undef KVSHIP_KERNELS_CPU_ATTENTION_INL_H_
#else
#define KVSHIP_KERNELS_CPU_ATTENTION_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// A block is three vectors wide; eight rows of it fill 24 of AVX-512's 32 registers and four fill
// 12 of AVX2's 16, which leaves room for the block's own vectors and hides the latency of FMA.
inline constexpr size_t kBlockVectors = 3;
inline constexpr size_t kBlockRows = HWY_TARGET <= HWY_AVX3 ? 8 : 4;

inline size_t BlockLanes() { return kBlockVectors * hn::Lanes(FloatTag()); }

// 2^x to 2 units in the last place for x <= 127; exactly 0 below -126.5, -infinity included, and
// exactly 1 at 0: a tile that a row does not see changes nothing of its result.
HWY_INLINE FloatVec Exp2(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  // Adding 1.5 * 2^23 rounds to an integer n in the low bits; with 127 added to it those bits,
  // moved to the exponent, are 2^n.
  const FloatVec magic = hn::Set(d, 12583039.0f);
  x = hn::Max(x, hn::Set(d, -127.0f));
  const FloatVec shifted = hn::Add(x, magic);
  const FloatVec r = hn::Sub(x, hn::Sub(shifted, magic));
  const FloatVec power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  // The minimax polynomial of 2^r on [-1/2, 1/2] with 2^0 = 1 exactly, relative error 9.2e-8.
  FloatVec y = hn::Set(d, 0.0013264728f);
  y = hn::MulAdd(y, r, hn::Set(d, 0.0096715139f));
  y = hn::MulAdd(y, r, hn::Set(d, 0.0555073358f));
  y = hn::MulAdd(y, r, hn::Set(d, 0.2402224243f));
  y = hn::MulAdd(y, r, hn::Set(d, 0.6931470037f));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f));
  return hn::Mul(y, power);
}

// out[lane] = out * factor + sum, over the lanes of a block.
HWY_INLINE void AddScaled(const FloatVec (&sum)[kBlockVectors], const float* HWY_RESTRICT factor,
                          float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
#pragma GCC unroll 3
  for (size_t v = 0; v < kBlockVectors; ++v) {
    const FloatVec scaled =
        hn::MulAdd(hn::Load(d, out + v * lanes), hn::Load(d, factor + v * lanes), sum[v]);
    hn::Store(scaled, d, out + v * lanes);
  }
}

// out[j][lane] = sum over d of rows[j][d] * block[d][lane], j < kRows. rows [kRows, D] with a
// stride, block [D, BlockLanes()], out [kRows, BlockLanes()].
template <size_t kRows>
HWY_INLINE void MultiplyRows(const float* HWY_RESTRICT rows, size_t row_stride,
                             const float* HWY_RESTRICT block, size_t head_dim,
                             float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  FloatVec sum[kRows][kBlockVectors];
#pragma GCC unroll 8
  for (size_t j = 0; j < kRows; ++j) {
    sum[j][0] = sum[j][1] = sum[j][2] = hn::Zero(d);
  }
  for (size_t i = 0; i < head_dim; ++i, block += kBlockVectors * lanes) {
    const FloatVec b0 = hn::Load(d, block);
    const FloatVec b1 = hn::Load(d, block + lanes);
    const FloatVec b2 = hn::Load(d, block + 2 * lanes);
#pragma GCC unroll 8
    for (size_t j = 0; j < kRows; ++j) {
      const FloatVec a = hn::Set(d, rows[j * row_stride + i]);
      sum[j][0] = hn::MulAdd(a, b0, sum[j][0]);
      sum[j][1] = hn::MulAdd(a, b1, sum[j][1]);
      sum[j][2] = hn::MulAdd(a, b2, sum[j][2]);
    }
  }
#pragma GCC unroll 8
  for (size_t j = 0; j < kRows; ++j, out += kBlockVectors * lanes) {
    hn::Store(sum[j][0], d, out);
    hn::Store(sum[j][1], d, out + lanes);
    hn::Store(sum[j][2], d, out + 2 * lanes);
  }
}

// The same for any number of rows.
HWY_INLINE void MultiplyAllRows(const float* HWY_RESTRICT rows, size_t row_stride, size_t num_rows,
                                const float* HWY_RESTRICT block, size_t head_dim,
                                float* HWY_RESTRICT out) {
  const size_t block_lanes = BlockLanes();
  size_t j = 0;
  for (; j + kBlockRows <= num_rows; j += kBlockRows) {
    MultiplyRows<kBlockRows>(rows + j * row_stride, row_stride, block, head_dim,
                             out + j * block_lanes);
  }
  for (; j < num_rows; ++j) {
    MultiplyRows<1>(rows + j * row_stride, row_stride, block, head_dim, out + j * block_lanes);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_ATTENTION_INL_H_
