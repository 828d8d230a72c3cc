// Products with rows of weights that are not in blocks, compiled once per Highway target. Op says
// what weights and activations are and how many are multiplied at a time:
//
//   Weight, X             elements, which have ToFloat
//   kStep                 elements that are multiplied at a time
//   Load(weights)         kStep weights
//   Add(sum, loaded, x)   sum + loaded * x; products of neighbours may share a lane
//   Row(args, m)          row m of x
//
// The file that includes this defines KVSHIP_WITH_BF16 if its Op takes AVX512-BF16.

#if defined(KVSHIP_KERNELS_CPU_PACKED_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_PACKED_ROWS_INL_H_
#undef KVSHIP_KERNELS_CPU_PACKED_ROWS_INL_H_
#else
#define KVSHIP_KERNELS_CPU_PACKED_ROWS_INL_H_
#endif

#include <cstddef>

#include "base/float16.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/packed_rows.h"

#if defined(KVSHIP_WITH_BF16) && HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums per row of weights and row of x, so that as many products are under way.
inline constexpr size_t kSums = 2;
// Rows of weights and of x whose sums fit the registers. What is loaded of either serves all of the
// other: rows of x do not fit the first level of cache.
inline constexpr size_t kRowsTogether = HWY_CAP_GE512 ? 4 : 2, kXRowsTogether = 3;

// kRows rows of weights from n on with kXRows rows of x from `first` on.
template <class Op, size_t kRows, size_t kXRows>
HWY_INLINE void MultiplyRows(const PackedRowsArgs& args, size_t n, size_t first) {
  using Weight = typename Op::Weight;
  const hn::ScalableTag<float> d;
  const size_t cols = args.weights->cols;
  const auto* weights =
      reinterpret_cast<const Weight*>(args.weights->data) + (args.begin + n) * cols;
  const typename Op::X* x[kXRows];
  hn::Vec<decltype(d)> sums[kRows][kXRows][kSums];
  const auto add = [&](size_t r, size_t i, size_t k) HWY_ATTR __attribute__((always_inline)) {
    const auto w = Op::Load(weights + r * cols + k);
    HWY_UNROLL(3)
    for (size_t m = 0; m < kXRows; ++m) sums[r][m][i] = Op::Add(sums[r][m][i], w, x[m] + k);
  };
  HWY_UNROLL(3)
  for (size_t m = 0; m < kXRows; ++m) {
    x[m] = Op::Row(args, first + m);
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) sums[r][m][0] = sums[r][m][1] = hn::Zero(d);
  }
  size_t k = 0;
  for (; k + kSums * Op::kStep <= cols; k += kSums * Op::kStep) {
    HWY_UNROLL(2)
    for (size_t i = 0; i < kSums; ++i) {
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        const size_t at = k + i * Op::kStep;
        // The hardware foresees one row, not several side by side.
        if (kRows > 1 && first == 0) hwy::Prefetch(weights + (kRows + r) * cols + at);
        add(r, i, at);
      }
    }
  }
  for (; k + Op::kStep <= cols; k += Op::kStep) {
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) add(r, 0, k);
  }
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(3)
    for (size_t m = 0; m < kXRows; ++m) {
      float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sums[r][m][0], sums[r][m][1])));
      for (size_t i = k; i < cols; ++i) {
        sum += ToFloat(weights[r * cols + i]) * ToFloat(x[m][i]);
      }
      float* y = args.y + (first + m) * args.y_stride + n + r;
      *y = args.accumulate ? *y + sum : sum;
    }
  }
}

template <class Op, size_t kRows>
HWY_INLINE void MultiplyAll(const PackedRowsArgs& args, size_t n) {
  size_t m = 0;
  for (; m + kXRowsTogether <= args.num_rows; m += kXRowsTogether) {
    MultiplyRows<Op, kRows, kXRowsTogether>(args, n, m);
  }
  if (args.num_rows - m == 2) MultiplyRows<Op, kRows, 2>(args, n, m);
  if (args.num_rows - m == 1) MultiplyRows<Op, kRows, 1>(args, n, m);
}

template <class Op>
void PlainRows(const PackedRowsArgs& args) {
  size_t n = 0;
  if (args.num_rows >= kXRowsTogether) {
    for (; n + kRowsTogether <= args.count; n += kRowsTogether) {
      MultiplyAll<Op, kRowsTogether>(args, n);
    }
  }
  for (; n < args.count; ++n) MultiplyAll<Op, 1>(args, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_PACKED_ROWS_INL_H_
