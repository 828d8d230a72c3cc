// A page's elements as floats, compiled once per SIMD target: of quantized formats the codes, which
// the page's scales make numbers of.

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

// An e4m3 number is read as the f16 that has its exponent bits: so many times smaller, subnormals
// included.
inline constexpr float kFp8OfF16 = 256.0f;

// Where an int4 code lies within its row: the byte, and the shift in it.
HWY_INLINE size_t Int4Byte(size_t channel) { return channel / 32 * 16 + channel % 16; }
HWY_INLINE int Int4Shift(size_t channel) { return channel & 16 ? 4 : 0; }

// Elements [first, first + lanes of a float vector) of a row. Of int4, first is a multiple of the
// lanes.
template <PageFormat kFormat>
HWY_INLINE hn::Vec<hn::ScalableTag<float>> LoadElements(const std::byte* row, size_t first) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint32_t, decltype(d)> du;
  const hn::RebindToSigned<decltype(du)> di;
  const hn::Rebind<uint16_t, decltype(d)> dh;
  const hn::Rebind<uint8_t, decltype(d)> db;
  const hn::Rebind<hwy::float16_t, decltype(d)> df16;
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(row);
  if constexpr (kFormat == PageFormat::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(row) + first);
  } else if constexpr (kFormat == PageFormat::kF16) {
    return hn::PromoteTo(d, hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(row) + first));
  } else if constexpr (kFormat == PageFormat::kBf16) {
    const auto bits = hn::LoadU(dh, reinterpret_cast<const uint16_t*>(row) + first);
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
  } else if constexpr (kFormat == PageFormat::kFp8) {
    const auto code = hn::PromoteTo(dh, hn::LoadU(db, bytes + first));
    const auto sign = hn::ShiftLeft<8>(hn::And(code, hn::Set(dh, 0x80)));
    const auto rest = hn::ShiftLeft<7>(hn::And(code, hn::Set(dh, 0x7f)));
    return hn::PromoteTo(d, hn::BitCast(df16, hn::Or(sign, rest)));
  } else if constexpr (kFormat == PageFormat::kInt8) {
    const auto code = hn::PromoteTo(du, hn::LoadU(db, bytes + first));
    return hn::ConvertTo(d, hn::BitCast(di, code));
  } else {
    const auto pair = hn::PromoteTo(du, hn::LoadU(db, bytes + Int4Byte(first)));
    const auto code = hn::And(hn::ShiftRightSame(pair, Int4Shift(first)), hn::Set(du, 15));
    return hn::ConvertTo(d, hn::BitCast(di, code));
  }
}

template <PageFormat kFormat>
HWY_INLINE float LoadElement(const std::byte* row, size_t index) {
  if constexpr (kFormat == PageFormat::kF32) {
    float element;
    std::memcpy(&element, row + index * sizeof(element), sizeof(element));
    return element;
  } else if constexpr (kFormat == PageFormat::kF16) {
    f16 element;
    std::memcpy(&element, row + index * sizeof(element), sizeof(element));
    return ToFloat(element);
  } else if constexpr (kFormat == PageFormat::kBf16) {
    bf16 element;
    std::memcpy(&element, row + index * sizeof(element), sizeof(element));
    return ToFloat(element);
  } else if constexpr (kFormat == PageFormat::kFp8) {
    const unsigned code = std::to_integer<unsigned>(row[index]);
    return ToFloat(f16{static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7f) << 7)});
  } else if constexpr (kFormat == PageFormat::kInt8) {
    return std::to_integer<uint8_t>(row[index]);
  } else {
    const unsigned pair = std::to_integer<unsigned>(row[Int4Byte(index)]);
    return static_cast<float>(pair >> Int4Shift(index) & 15);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_PAGE_ELEMENTS_INL_H_
