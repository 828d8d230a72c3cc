// The end of a product with a tile, compiled once per Highway target.

#if defined(KVSHIP_KERNELS_CPU_FINISH_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_FINISH_ROW_INL_H_
#undef KVSHIP_KERNELS_CPU_FINISH_ROW_INL_H_
#else
#define KVSHIP_KERNELS_CPU_FINISH_ROW_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Stores or adds a row of a tile's results, of which the last tile's may be cut short.
HWY_INLINE void FinishRow(const float* sums, size_t count, bool accumulate, float* y) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    auto sum = hn::Load(d, sums + i);
    if (accumulate) sum = hn::Add(hn::LoadU(d, y + i), sum);
    hn::StoreU(sum, d, y + i);
  }
  for (; i < count; ++i) y[i] = accumulate ? y[i] + sums[i] : sums[i];
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_FINISH_ROW_INL_H_
