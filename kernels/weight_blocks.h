// Decodes single weights in blocks of the quantized formats, for both backends: weight i of a block
// is scale * code + minimum, where the code is an unsigned byte. Every format can be written this
// way without rounding, and scale * code has no more bits than a float, so that a fused
// multiply-add gives the same result. docs/formats.md has the layouts. Pure functions.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/float16.h"
#include "kernels/weight_format.h"

namespace kvship {

// Calls fn with the quantized `format` as a std::integral_constant.
template <class Fn>
auto WithQuantizedFormat(WeightFormat format, const Fn& fn) {
  using enum WeightFormat;
  switch (format) {
    case kQ8_0: return fn(std::integral_constant<WeightFormat, kQ8_0>());
    case kQ4_0: return fn(std::integral_constant<WeightFormat, kQ4_0>());
    case kQ4_1: return fn(std::integral_constant<WeightFormat, kQ4_1>());
    case kQ5_0: return fn(std::integral_constant<WeightFormat, kQ5_0>());
    case kQ5_1: return fn(std::integral_constant<WeightFormat, kQ5_1>());
    case kIQ4_NL: return fn(std::integral_constant<WeightFormat, kIQ4_NL>());
    case kQ2_K: return fn(std::integral_constant<WeightFormat, kQ2_K>());
    case kQ3_K: return fn(std::integral_constant<WeightFormat, kQ3_K>());
    case kQ4_K: return fn(std::integral_constant<WeightFormat, kQ4_K>());
    case kQ5_K: return fn(std::integral_constant<WeightFormat, kQ5_K>());
    case kQ6_K: return fn(std::integral_constant<WeightFormat, kQ6_K>());
    case kIQ4_XS: return fn(std::integral_constant<WeightFormat, kIQ4_XS>());
    case kF32:
    case kF16:
    case kBf16: break;
  }
  assert(false);
  __builtin_unreachable();
}

// Scales per run of 32 weights: one, or two that each hold for 16.
constexpr size_t ScalesPerRun(WeightFormat format) {
  const bool halves = format == WeightFormat::kQ2_K || format == WeightFormat::kQ3_K ||
                      format == WeightFormat::kQ6_K;
  return halves ? 2 : 1;
}

constexpr uint32_t ByteAt(const std::byte* block, uint32_t at) {
  return static_cast<uint32_t>(block[at]);
}
constexpr float HalfAt(const std::byte* block, uint32_t at) {
  return ToFloat(f16{static_cast<uint16_t>(ByteAt(block, at) | ByteAt(block, at + 1) << 8)});
}

// Q4_K and Q5_K: 12 bytes hold eight 6-bit scales and eight 6-bit minimums. Runs 0-3 have theirs in
// the low six bits of bytes 0-3 and 4-7; runs 4-7 have the low four bits in bytes 8-11 (scale low
// nibble, minimum high nibble) and the high two in the top bits of bytes 0-3 and 4-7.
struct SixBitPair {
  int scale;
  int minimum;
};
constexpr SixBitPair SixBitPairOf(const std::byte* packed, uint32_t run) {
  const auto at = [packed](uint32_t i) { return static_cast<int>(packed[i]); };
  if (run < 4) return {at(run) & 63, at(run + 4) & 63};
  return {(at(run + 4) & 15) | (at(run - 4) >> 6) << 4, at(run + 4) >> 4 | (at(run) >> 6) << 4};
}

// Q3_K: 12 bytes hold sixteen 6-bit scales, each 32 too large. The low four bits of 0-7 are the low
// nibbles of bytes 0-7, of 8-15 the high ones; the high two of scale i are bits 2 * (i / 4) and the
// next of byte 8 + i % 4.
constexpr int Q3_KScale(const std::byte* packed, uint32_t i) {
  const uint32_t low = ByteAt(packed, i % 8) >> i / 8 * 4 & 15;
  const uint32_t high = ByteAt(packed, 8 + i % 4) >> i / 4 * 2 & 3;
  return static_cast<int>(low | high << 4) - 32;
}

// IQ4_XS: eight 6-bit scales, each 32 too large: their high two bits in two bytes, the low four in
// the nibbles of four more.
constexpr int IQ4_XSScale(const std::byte* packed, uint32_t run) {
  const uint32_t high = ByteAt(packed, run / 4) >> run % 4 * 2 & 3;
  const uint32_t low = ByteAt(packed, 2 + run / 2) >> run % 2 * 4 & 15;
  return static_cast<int>(low | high << 4) - 32;
}

// IQ4_NL and IQ4_XS: a weight is scale * (IQ4Code(nibble) - kIQ4Middle). The codes ascend; the
// first is the lowest byte of the first word.
inline constexpr int kIQ4Middle = 127;
inline constexpr uint64_t kIQ4Codes0 = 0x75695c4e3e2c1700u, kIQ4Codes8 = 0xf0d8c4b4a5988c80u;
constexpr uint32_t IQ4Code(uint32_t nibble) {
  return static_cast<uint32_t>((nibble < 8 ? kIQ4Codes0 : kIQ4Codes8) >> nibble % 8 * 8 & 255);
}

struct WeightScale {
  float scale;
  float minimum;
};

// The scale and minimum of weight i of a block; the 16 or 32 weights around it share them.
template <WeightFormat kFormat>
constexpr WeightScale ScaleOf(const std::byte* block, uint32_t i) {
  using enum WeightFormat;
  const auto times = [block](uint32_t half, int n) {
    return HalfAt(block, half) * static_cast<float>(n);
  };
  // For signed weights, whose codes are `middle` too large.
  const auto around = [](int middle, float scale) -> WeightScale {
    return {scale, static_cast<float>(-middle) * scale};
  };
  if constexpr (kFormat == kQ8_0) return around(128, HalfAt(block, 0));
  if constexpr (kFormat == kQ4_0) return around(8, HalfAt(block, 0));
  if constexpr (kFormat == kQ5_0) return around(16, HalfAt(block, 0));
  if constexpr (kFormat == kIQ4_NL) return around(kIQ4Middle, HalfAt(block, 0));
  if constexpr (kFormat == kQ4_1 || kFormat == kQ5_1) return {HalfAt(block, 0), HalfAt(block, 2)};
  if constexpr (kFormat == kQ4_K || kFormat == kQ5_K) {
    const SixBitPair pair = SixBitPairOf(block + 4, i / 32);
    return {times(0, pair.scale), -times(2, pair.minimum)};
  }
  if constexpr (kFormat == kQ2_K) {
    const int both = static_cast<int>(ByteAt(block, i / 16));
    return {times(80, both & 15), -times(82, both >> 4)};
  }
  if constexpr (kFormat == kQ3_K) return around(4, times(108, Q3_KScale(block + 96, i / 16)));
  if constexpr (kFormat == kQ6_K) {
    return around(32, times(208, static_cast<int8_t>(ByteAt(block, 192 + i / 16))));
  }
  if constexpr (kFormat == kIQ4_XS) {
    return around(kIQ4Middle, times(0, IQ4_XSScale(block + 2, i / 32)));
  }
}

// Nibble i of 16 bytes: the low nibbles come first.
constexpr uint32_t SplitNibble(const std::byte* packed, uint32_t i) {
  return ByteAt(packed, i % 16) >> i / 16 * 4 & 15;
}
constexpr uint32_t BitOf(const std::byte* packed, uint32_t i) {
  return ByteAt(packed, i / 8) >> i % 8 & 1;
}

// Code i of a block.
template <WeightFormat kFormat>
constexpr uint32_t CodeOf(const std::byte* block, uint32_t i) {
  using enum WeightFormat;
  // For the K formats, which pack a bit or two of four or eight runs into a byte.
  const uint32_t run = i / 32, lane = i % 32;
  const auto two_bits = [=](uint32_t at) {
    return ByteAt(block, at + run / 4 * 32 + lane) >> run % 4 * 2 & 3;
  };
  const auto one_bit = [=](uint32_t at) { return ByteAt(block, at + lane) >> run & 1; };
  const auto four_bits = [=](uint32_t at) {
    return ByteAt(block, at + run / 2 * 32 + lane) >> run % 2 * 4 & 15;
  };
  if constexpr (kFormat == kQ8_0) return ByteAt(block, 2 + i) ^ 0x80u;
  if constexpr (kFormat == kQ4_0) return SplitNibble(block + 2, i);
  if constexpr (kFormat == kQ4_1) return SplitNibble(block + 4, i);
  if constexpr (kFormat == kQ5_0) return SplitNibble(block + 6, i) | BitOf(block + 2, i) << 4;
  if constexpr (kFormat == kQ5_1) return SplitNibble(block + 8, i) | BitOf(block + 4, i) << 4;
  if constexpr (kFormat == kIQ4_NL) return IQ4Code(SplitNibble(block + 2, i));
  if constexpr (kFormat == kQ2_K) return two_bits(16);
  if constexpr (kFormat == kQ3_K) return two_bits(32) | one_bit(0) << 2;
  if constexpr (kFormat == kQ4_K) return four_bits(16);
  if constexpr (kFormat == kQ5_K) return four_bits(48) | one_bit(16) << 4;
  if constexpr (kFormat == kQ6_K) {
    // The low nibbles of 64 bytes are runs 0 and 1 of four, the high ones runs 2 and 3.
    const uint32_t low = ByteAt(block, run / 4 * 64 + i % 64) >> run % 4 / 2 * 4 & 15;
    return low | two_bits(128) << 4;
  }
  if constexpr (kFormat == kIQ4_XS) return IQ4Code(SplitNibble(block + 8 + run * 16, lane));
}

}  // namespace kvship
