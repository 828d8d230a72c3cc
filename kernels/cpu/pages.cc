#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/cpu/page_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pages.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/page_elements-inl.h"
#include "kernels/cpu/quantize-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Rounds to nearest even, as base/float16.h does.
void EncodeF16(const float* row, size_t num_elements, std::byte* out) {
  size_t i = 0;
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86  // others of Highway's conversions truncate
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  for (; i + hn::Lanes(d) <= num_elements; i += hn::Lanes(d)) {
    hn::StoreU(hn::DemoteTo(dh, hn::LoadU(d, row + i)), dh,
               reinterpret_cast<hwy::float16_t*>(out + 2 * i));
  }
#endif
  for (; i < num_elements; ++i) {
    const f16 element = ToF16(row[i]);
    std::memcpy(out + 2 * i, &element, 2);
  }
}

void EncodeBf16(const float* row, size_t num_elements, std::byte* out) {
  const hn::ScalableTag<uint32_t> d;
  const hn::Rebind<float, decltype(d)> df;
  const hn::Rebind<uint16_t, decltype(d)> dh;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= num_elements; i += hn::Lanes(d)) {
    const auto x = hn::LoadU(df, row + i);
    const auto bits = hn::BitCast(d, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fff)));
    const auto quiet = hn::Or(bits, hn::Set(d, 0x400000));
    const auto is_nan = hn::RebindMask(d, hn::Ne(x, x));
    const auto high = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
    // The signed conversion saturates: the sign bit has to look like one.
    const hn::RebindToSigned<decltype(d)> di;
    const hn::Rebind<int16_t, decltype(d)> dhi;
    const auto narrow =
        hn::DemoteTo(dhi, hn::ShiftRight<16>(hn::BitCast(di, hn::ShiftLeft<16>(high))));
    hn::StoreU(hn::BitCast(dh, narrow), dh, reinterpret_cast<uint16_t*>(out + 2 * i));
  }
  for (; i < num_elements; ++i) {
    const bf16 element = ToBf16(row[i]);
    std::memcpy(out + 2 * i, &element, 2);
  }
}

void EncodeRow(PageFormat format, const float* row, size_t num_elements, std::byte* out) {
  switch (format) {
    case PageFormat::kF32: std::memcpy(out, row, num_elements * sizeof(float)); break;
    case PageFormat::kF16: EncodeF16(row, num_elements, out); break;
    case PageFormat::kBf16: EncodeBf16(row, num_elements, out); break;
    default: assert(false && "a quantized page takes no single row");
  }
}

template <PageFormat kFormat>
void DecodeRow(const std::byte* in, size_t num_elements, float* row) {
  const hn::ScalableTag<float> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= num_elements; i += hn::Lanes(d)) {
    hn::StoreU(LoadElements<kFormat>(in, i), d, row + i);
  }
  for (; i < num_elements; ++i) row[i] = LoadElement<kFormat>(in, i);
}

void DecodeAnyRow(PageFormat format, const std::byte* in, size_t num_elements, float* row) {
  switch (format) {
    case PageFormat::kF32: DecodeRow<PageFormat::kF32>(in, num_elements, row); break;
    case PageFormat::kF16: DecodeRow<PageFormat::kF16>(in, num_elements, row); break;
    case PageFormat::kBf16: DecodeRow<PageFormat::kBf16>(in, num_elements, row); break;
    case PageFormat::kFp8: DecodeRow<PageFormat::kFp8>(in, num_elements, row); break;
    case PageFormat::kInt8: DecodeRow<PageFormat::kInt8>(in, num_elements, row); break;
    case PageFormat::kInt4: DecodeRow<PageFormat::kInt4>(in, num_elements, row); break;
  }
}

// Makes numbers of the codes of token t.
void Dequantize(PageFormat format, const std::byte* page, size_t t, size_t head_dim, float* key,
                float* value) {
  const std::byte* const scales = page + PageScalesOffset(format, head_dim);
  if (format == PageFormat::kFp8) {
    for (size_t i = 0; i < head_dim; ++i) {
      key[i] *= LoadElement<PageFormat::kF32>(scales, 0) * kFp8OfF16;
      value[i] *= LoadElement<PageFormat::kF32>(scales, 1) * kFp8OfF16;
    }
    return;
  }
  const size_t value_scales = 2 * head_dim;
  const size_t value_minima = value_scales + kPageTokens * head_dim / kValueGroup;
  auto number = [&](size_t index) { return LoadElement<PageFormat::kBf16>(scales, index); };
  for (size_t i = 0; i < head_dim; ++i) {
    key[i] = number(head_dim + i) + key[i] * number(i);
    const size_t slot = i / kValueGroup * kPageTokens + t;
    value[i] = number(value_minima + slot) + value[i] * number(value_scales + slot);
  }
}

void GatherRows(PageFormat format, const TensorView& rows, std::span<const int32_t> positions,
                std::byte* out) {
  const size_t row_bytes = rows.dims[1] * PageElementBytes(format);
  for (int32_t position : positions) {
    EncodeRow(format, rows.f32(static_cast<size_t>(position)), rows.dims[1], out);
    out += row_bytes;
  }
  std::memset(out, 0, (kPageTokens - positions.size()) * row_bytes);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(EncodeRow);
HWY_EXPORT(DecodeAnyRow);
HWY_EXPORT(GatherRows);
HWY_EXPORT(QuantizePage);
HWY_EXPORT(Dequantize);

PageRows RowsAt(const TensorView& rows, std::span<const int32_t> positions) {
  PageRows out = {.rows = {}, .num_tokens = positions.size(), .head_dim = rows.dims[1]};
  for (size_t i = 0; i < positions.size(); ++i) {
    out.rows[i] = rows.f32(static_cast<size_t>(positions[i]));
  }
  return out;
}

}  // namespace

void WritePageSlot(PageFormat format, size_t head_dim, size_t slot, const float* key,
                   const float* value, std::byte* page) {
  assert(slot < kPageTokens);
  std::byte* const out = page + slot * head_dim * PageElementBytes(format);
  HWY_DYNAMIC_DISPATCH(EncodeRow)(format, key, head_dim, out);
  HWY_DYNAMIC_DISPATCH(EncodeRow)
  (format, value, head_dim, out + PageValuesOffset(format, head_dim));
}

void GatherPages(PageFormat format, TensorView keys, TensorView values,
                 std::span<const int32_t> positions, std::byte* pages) {
  const size_t head_dim = keys.dims[1];
  assert(values.dims[1] == head_dim);
  for (size_t begin = 0; begin < positions.size(); begin += kPageTokens) {
    const auto on_page = positions.subspan(begin, std::min(kPageTokens, positions.size() - begin));
    if (IsQuantized(format)) {
      HWY_DYNAMIC_DISPATCH(QuantizePage)
      (format, RowsAt(keys, on_page), RowsAt(values, on_page), pages);
      pages += PageBytes(format, head_dim);
      continue;
    }
    HWY_DYNAMIC_DISPATCH(GatherRows)(format, keys, on_page, pages);
    HWY_DYNAMIC_DISPATCH(GatherRows)
    (format, values, on_page, pages + PageValuesOffset(format, head_dim));
    pages += PageBytes(format, head_dim);
  }
}

void ReadPage(PageFormat format, const std::byte* page, TensorView keys, TensorView values) {
  const size_t head_dim = keys.dims[1];
  assert(keys.dims[0] <= kPageTokens && values.dims[0] == keys.dims[0]);
  const size_t row_bytes = head_dim * PageElementBits(format) / 8;
  for (size_t t = 0; t < keys.dims[0]; ++t) {
    const std::byte* const in = page + t * row_bytes;
    HWY_DYNAMIC_DISPATCH(DecodeAnyRow)(format, in, head_dim, keys.f32(t));
    HWY_DYNAMIC_DISPATCH(DecodeAnyRow)
    (format, in + PageValuesOffset(format, head_dim), head_dim, values.f32(t));
    if (IsQuantized(format)) {
      HWY_DYNAMIC_DISPATCH(Dequantize)(format, page, t, head_dim, keys.f32(t), values.f32(t));
    }
  }
}

}  // namespace kvship
#endif  // HWY_ONCE
