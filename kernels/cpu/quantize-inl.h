// A page's tokens as codes and scales (docs/wire.md), compiled once per SIMD target.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "hwy/highway.h"
#include "kernels/cpu/page_elements-inl.h"
#include "kernels/cpu/page_rows.h"
#include "kernels/page_layout.h"

#if defined(KVSHIP_KERNELS_CPU_QUANTIZE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_QUANTIZE_INL_H_
#undef KVSHIP_KERNELS_CPU_QUANTIZE_INL_H_
#else
#define KVSHIP_KERNELS_CPU_QUANTIZE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// A range of numbers as a scale and a minimum in bf16 that cover it, and the factor that makes
// codes: code = (x - minimum) * factor.
struct CodeScale {
  bf16 scale;
  bf16 minimum;
  float factor;
};

// The nearest bf16 that is not above x, and the nearest that is not below.
inline bf16 RoundDown(float x) {
  bf16 out = ToBf16(x);
  if (!(ToFloat(out) > x)) return out;
  if (out.bits == 0) return {0x8001};
  out.bits = static_cast<uint16_t>(out.bits & 0x8000 ? out.bits + 1 : out.bits - 1);
  return out;
}
inline bf16 RoundUp(float x) { return {static_cast<uint16_t>(RoundDown(-x).bits ^ 0x8000)}; }

inline CodeScale MakeCodeScale(float minimum, float maximum, float most_code) {
  CodeScale out;
  out.minimum = RoundDown(minimum);
  out.scale = RoundUp((maximum - ToFloat(out.minimum)) / most_code);
  const float scale = ToFloat(out.scale);
  out.factor = scale > 0 ? 1 / scale : 0;
  return out;
}

inline void StoreBf16(bf16 x, std::byte* to) { std::memcpy(to, &x, sizeof(x)); }

// Codes of lanes channels from `first`, as 32-bit integers.
HWY_INLINE hn::Vec<hn::RebindToSigned<hn::ScalableTag<float>>> Codes(
    const float* row, size_t first, hn::Vec<hn::ScalableTag<float>> minimum,
    hn::Vec<hn::ScalableTag<float>> factor, float most_code) {
  const hn::ScalableTag<float> d;
  const auto code = hn::Mul(hn::Sub(hn::LoadU(d, row + first), minimum), factor);
  // Max first: of NaN it makes 0.
  return hn::NearestInt(hn::Min(hn::Max(code, hn::Zero(d)), hn::Set(d, most_code)));
}

// Writes the codes of 32 channels from `first`. `minima` and `factors` have one number for each of
// these channels, or one for all.
template <PageFormat kFormat>
HWY_INLINE void StoreCodes(const float* row, size_t first, const float* minima,
                           const float* factors, bool one_for_all, std::byte* out_row) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint8_t, decltype(d)> db;
  const size_t lanes = hn::Lanes(d);
  uint8_t* const out = reinterpret_cast<uint8_t*>(out_row);
  constexpr float kMost = kFormat == PageFormat::kInt8 ? 255.0f : 15.0f;
  auto codes = [&](size_t channel) {
    const auto minimum = one_for_all ? hn::Set(d, *minima) : hn::LoadU(d, minima + channel);
    const auto factor = one_for_all ? hn::Set(d, *factors) : hn::LoadU(d, factors + channel);
    return Codes(row, first + channel, minimum, factor, kMost);
  };
  if constexpr (kFormat == PageFormat::kInt8) {
    for (size_t c = 0; c < kValueGroup; c += lanes) {
      hn::StoreU(hn::DemoteTo(db, codes(c)), db, out + first + c);
    }
  } else {
    for (size_t c = 0; c < kValueGroup / 2; c += lanes) {
      const auto pair = hn::Or(codes(c), hn::ShiftLeft<4>(codes(c + kValueGroup / 2)));
      hn::StoreU(hn::DemoteTo(db, pair), db, out + Int4Byte(first) + c);
    }
  }
}

// Minima and maxima of vectors may lose a NaN: `is_nan` is where there was one.
HWY_INLINE hn::Vec<hn::ScalableTag<float>> Bound(hn::Vec<hn::ScalableTag<float>> bound,
                                                 hn::Mask<hn::ScalableTag<float>> is_nan) {
  return hn::IfThenElse(is_nan, hn::NaN(hn::ScalableTag<float>()), bound);
}

// K: a scale for each channel, over the page's tokens.
template <PageFormat kFormat>
void QuantizeKeys(const PageRows& in, std::byte* page) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  constexpr float kMost = kFormat == PageFormat::kInt8 ? 255.0f : 15.0f;
  const size_t row_bytes = in.head_dim * PageElementBits(kFormat) / 8;
  std::byte* const scales = page + PageScalesOffset(kFormat, in.head_dim);
  std::byte* const scale_minima = scales + 2 * in.head_dim;
  HWY_ALIGN float minima[kValueGroup];
  HWY_ALIGN float factors[kValueGroup];
  for (size_t first = 0; first < in.head_dim; first += kValueGroup) {
    for (size_t c = 0; c < kValueGroup; c += lanes) {
      auto low = hn::LoadU(d, in.rows[0] + first + c);
      auto high = low;
      auto is_nan = hn::IsNaN(low);
      for (size_t t = 1; t < in.num_tokens; ++t) {
        const auto x = hn::LoadU(d, in.rows[t] + first + c);
        low = hn::Min(low, x);
        high = hn::Max(high, x);
        is_nan = hn::Or(is_nan, hn::IsNaN(x));
      }
      hn::Store(Bound(low, is_nan), d, minima + c);
      hn::Store(Bound(high, is_nan), d, factors + c);
    }
    for (size_t c = 0; c < kValueGroup; ++c) {
      const CodeScale scale = MakeCodeScale(minima[c], factors[c], kMost);
      StoreBf16(scale.scale, scales + 2 * (first + c));
      StoreBf16(scale.minimum, scale_minima + 2 * (first + c));
      minima[c] = ToFloat(scale.minimum);
      factors[c] = scale.factor;
    }
    for (size_t t = 0; t < in.num_tokens; ++t) {
      StoreCodes<kFormat>(in.rows[t], first, minima, factors, false, page + t * row_bytes);
    }
  }
}

// V: a scale for each token and 32 channels.
template <PageFormat kFormat>
void QuantizeValues(const PageRows& in, std::byte* page) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  constexpr float kMost = kFormat == PageFormat::kInt8 ? 255.0f : 15.0f;
  const size_t row_bytes = in.head_dim * PageElementBits(kFormat) / 8;
  std::byte* const codes = page + PageValuesOffset(kFormat, in.head_dim);
  std::byte* const scales = page + PageScalesOffset(kFormat, in.head_dim) + 4 * in.head_dim;
  std::byte* const scale_minima = scales + 2 * kPageTokens * in.head_dim / kValueGroup;
  for (size_t first = 0; first < in.head_dim; first += kValueGroup) {
    for (size_t t = 0; t < in.num_tokens; ++t) {
      auto low = hn::LoadU(d, in.rows[t] + first);
      auto high = low;
      auto is_nan = hn::IsNaN(low);
      for (size_t c = lanes; c < kValueGroup; c += lanes) {
        const auto x = hn::LoadU(d, in.rows[t] + first + c);
        low = hn::Min(low, x);
        high = hn::Max(high, x);
        is_nan = hn::Or(is_nan, hn::IsNaN(x));
      }
      // MinOfLanes may lose it too.
      const bool any = !hn::AllFalse(d, is_nan);
      const float nan = std::numeric_limits<float>::quiet_NaN();
      const CodeScale scale =
          MakeCodeScale(any ? nan : hn::GetLane(hn::MinOfLanes(d, low)),
                        any ? nan : hn::GetLane(hn::MaxOfLanes(d, high)), kMost);
      const size_t slot = first / kValueGroup * kPageTokens + t;
      StoreBf16(scale.scale, scales + 2 * slot);
      StoreBf16(scale.minimum, scale_minima + 2 * slot);
      const float minimum = ToFloat(scale.minimum);
      StoreCodes<kFormat>(in.rows[t], first, &minimum, &scale.factor, true, codes + t * row_bytes);
    }
  }
}

// The e4m3 number nearest to x, at most 448; x is rounded to f16 first, which decides only within a
// f16's last place of a tie.
inline uint8_t ToFp8(float x) {
  // Of f16's bits e4m3 has the upper three of the mantissa, and 2^-8 re-bases the exponent.
  const float magnitude = std::min(std::fabs(x), 448.0f);
  const uint16_t half = ToF16((std::isnan(x) ? 448.0f : magnitude) / kFp8OfF16).bits;
  const unsigned rounded = half + 0x3f + (half >> 7 & 1);
  return static_cast<uint8_t>(std::min(rounded >> 7, 0x7eu) | (std::signbit(x) ? 0x80 : 0));
}

// Keys or values: one scale for all.
void QuantizeFp8(const PageRows& in, std::byte* codes, std::byte* scale_at) {
  const hn::ScalableTag<float> d;
  auto most = hn::Zero(d);
  float rest = 0;
  for (size_t t = 0; t < in.num_tokens; ++t) {
    size_t i = 0;
    for (; i + hn::Lanes(d) <= in.head_dim; i += hn::Lanes(d)) {
      most = hn::Max(hn::Abs(hn::LoadU(d, in.rows[t] + i)), most);
    }
    for (; i < in.head_dim; ++i) rest = std::max(rest, std::fabs(in.rows[t][i]));
  }
  const float largest = std::max(rest, hn::GetLane(hn::MaxOfLanes(d, most)));
  const float scale = std::isfinite(largest) ? largest / 448.0f : 1.0f;
  const float factor = scale > 0 ? 1 / scale : 0;
  std::memcpy(scale_at, &scale, sizeof(scale));
  for (size_t t = 0; t < in.num_tokens; ++t) {
    for (size_t i = 0; i < in.head_dim; ++i) {
      codes[t * in.head_dim + i] = std::byte{ToFp8(in.rows[t][i] * factor)};
    }
  }
}

// A page of a quantized format, its padding zero.
void QuantizePage(PageFormat format, const PageRows& keys, const PageRows& values,
                  std::byte* page) {
  std::memset(page, 0, PageBytes(format, keys.head_dim));
  if (format == PageFormat::kInt8) {
    QuantizeKeys<PageFormat::kInt8>(keys, page);
    QuantizeValues<PageFormat::kInt8>(values, page);
  } else if (format == PageFormat::kInt4) {
    QuantizeKeys<PageFormat::kInt4>(keys, page);
    QuantizeValues<PageFormat::kInt4>(values, page);
  } else {
    std::byte* const scales = page + PageScalesOffset(format, keys.head_dim);
    QuantizeFp8(keys, page, scales);
    QuantizeFp8(values, page + PageValuesOffset(format, keys.head_dim), scales + sizeof(float));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_QUANTIZE_INL_H_
