// A page's elements as floats, compiled once per SIMD target.

#include <cstddef>
#include <cstring>

#include "base/float16.h"
#include "hwy/highway.h"
#include "kernels/page_layout.h"

#if defined(KVSHIP_KERNELS_CPU_PAGE_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_PAGE_ELEMENTS_INL_H_
#undef KVSHIP_KERNELS_CPU_PAGE_ELEMENTS_INL_H_
#else
#define KVSHIP_KERNELS_CPU_PAGE_ELEMENTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements [first, first + lanes of a float vector) of a row.
template <PageFormat kFormat>
HWY_INLINE hn::Vec<hn::ScalableTag<float>> LoadElements(const std::byte* row, size_t first) {
  const hn::ScalableTag<float> d;
  const std::byte* const from = row + first * PageElementBytes(kFormat);
  if constexpr (kFormat == PageFormat::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(from));
  } else if constexpr (kFormat == PageFormat::kF16) {
    const hn::Rebind<hwy::float16_t, decltype(d)> dh;
    return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from)));
  } else {
    const hn::Rebind<uint16_t, decltype(d)> dh;
    const hn::Rebind<uint32_t, decltype(d)> du;
    const auto bits = hn::LoadU(dh, reinterpret_cast<const uint16_t*>(from));
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
  }
}

template <PageFormat kFormat>
HWY_INLINE float LoadElement(const std::byte* row, size_t index) {
  const std::byte* const from = row + index * PageElementBytes(kFormat);
  if constexpr (kFormat == PageFormat::kF32) {
    float element;
    std::memcpy(&element, from, sizeof(element));
    return element;
  } else if constexpr (kFormat == PageFormat::kF16) {
    f16 element;
    std::memcpy(&element, from, sizeof(element));
    return ToFloat(element);
  } else {
    bf16 element;
    std::memcpy(&element, from, sizeof(element));
    return ToFloat(element);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_PAGE_ELEMENTS_INL_H_
