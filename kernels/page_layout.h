// How a page lies in memory, in the pool and on the wire alike: 32 tokens of K and V of ONE KV head
// of one layer. The last page of a head is padded with zeros. docs/wire.md has a worked example in
// bytes.
//
//   float formats:   K [32, D], V [32, D]
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvship {

inline constexpr size_t kPageTokens = 32;

enum class PageFormat : uint8_t { kF32 = 1, kF16 = 2, kBf16 = 3 };

constexpr size_t PageElementBytes(PageFormat format) { return format == PageFormat::kF32 ? 4 : 2; }

constexpr size_t PageBytes(PageFormat format, size_t head_dim) {
  return 2 * kPageTokens * head_dim * PageElementBytes(format);
}

// Byte offset of V within a page; K is at 0.
constexpr size_t PageValuesOffset(PageFormat format, size_t head_dim) {
  return PageBytes(format, head_dim) / 2;
}

constexpr size_t PagesFor(size_t num_tokens) {
  return (num_tokens + kPageTokens - 1) / kPageTokens;
}

const char* PageFormatName(PageFormat format);  // "f32", "f16", "bf16"

}  // namespace kvship
