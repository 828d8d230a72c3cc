// The layout of a page, in the pool and on the wire alike: 32 tokens of K and V of ONE KV head of
// one layer. docs/wire.md has the layout of each format, and shows an int4 page in bytes. Quantized
// pages are immutable: no token is added to one. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor_view.h"

namespace kvship {

inline constexpr size_t kPageTokens = 32;

// Channels of V that share a scale in int8 and int4 pages.
inline constexpr size_t kValueGroup = 32;

enum class PageFormat : uint8_t { kF32 = 1, kF16 = 2, kBf16 = 3, kFp8 = 4, kInt8 = 5, kInt4 = 6 };

// The page format that stores numbers of a float type unchanged.
constexpr PageFormat PageFormatOf(DType dtype) {
  if (dtype == DType::kF32) return PageFormat::kF32;
  return dtype == DType::kF16 ? PageFormat::kF16 : PageFormat::kBf16;
}

constexpr bool IsQuantized(PageFormat format) { return format >= PageFormat::kFp8; }

constexpr size_t PageElementBits(PageFormat format) {
  switch (format) {
    case PageFormat::kF32: return 32;
    case PageFormat::kF16:
    case PageFormat::kBf16: return 16;
    case PageFormat::kFp8:
    case PageFormat::kInt8: return 8;
    case PageFormat::kInt4: return 4;
  }
  return 0;
}

// `format` must be a float format.
constexpr size_t PageElementBytes(PageFormat format) { return PageElementBits(format) / 8; }

// Bytes of K's codes; V's take as many.
constexpr size_t PageCodeBytes(PageFormat format, size_t head_dim) {
  return kPageTokens * head_dim * PageElementBits(format) / 8;
}

// Byte offset of V's codes within a page; K's are at 0.
constexpr size_t PageValuesOffset(PageFormat format, size_t head_dim) {
  return PageCodeBytes(format, head_dim);
}

// Byte offset of the scales within a quantized page.
constexpr size_t PageScalesOffset(PageFormat format, size_t head_dim) {
  return 2 * PageCodeBytes(format, head_dim);
}

constexpr size_t PageScaleBytes(PageFormat format, size_t head_dim) {
  if (!IsQuantized(format)) return 0;
  if (format == PageFormat::kFp8) return 16;
  return 2 * 2 * head_dim + 2 * 2 * kPageTokens * head_dim / kValueGroup;
}

constexpr size_t PageBytes(PageFormat format, size_t head_dim) {
  return PageScalesOffset(format, head_dim) + PageScaleBytes(format, head_dim);
}

constexpr size_t PagesFor(size_t num_tokens) {
  return (num_tokens + kPageTokens - 1) / kPageTokens;
}

const char* PageFormatName(PageFormat format);  // "f32", "f16", "bf16", "fp8", "int8", "int4"

}  // namespace kvship
