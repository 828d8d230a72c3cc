// Random weights in every format, and a second reading of the formats that shares nothing with the
// first: bit by bit, in double.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/float16.h"
#include "base/random.h"
#include "kernels/weight_format.h"
#include "tests/random_floats.h"

namespace kvship {

inline constexpr WeightFormat kAllFormats[] = {
    WeightFormat::kF32,    WeightFormat::kF16,  WeightFormat::kBf16,  WeightFormat::kQ8_0,
    WeightFormat::kQ4_0,   WeightFormat::kQ4_1, WeightFormat::kQ5_0,  WeightFormat::kQ5_1,
    WeightFormat::kIQ4_NL, WeightFormat::kQ2_K, WeightFormat::kQ3_K,  WeightFormat::kQ4_K,
    WeightFormat::kQ5_K,   WeightFormat::kQ6_K, WeightFormat::kIQ4_XS};

struct RandomWeights {
  std::vector<std::byte> bytes;
  WeightView view;

  // Random bits, but for the scales, which are small halves of either sign.
  RandomWeights(uint64_t seed, WeightFormat format, size_t rows, size_t cols) {
    view = {nullptr, format, rows, cols};
    bytes.resize(view.num_bytes());
    view.data = bytes.data();
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>(RandomBits(seed, i));
    const WeightBlock block = BlockOf(format);
    for (size_t i = 0; i < bytes.size(); i += block.num_bytes) SetScales(seed + 1, i);
  }

 private:
  void PutF16(size_t at, float value) {
    const f16 half = ToF16(value);
    bytes[at] = static_cast<std::byte>(half.bits);
    bytes[at + 1] = static_cast<std::byte>(half.bits >> 8);
  }
  void SetScales(uint64_t seed, size_t at) {
    const auto value = static_cast<float>(UniformUnit(seed, at) - 0.5);
    const auto second = static_cast<float>(UniformUnit(seed, at + 1) - 0.5);
    switch (view.format) {
      case WeightFormat::kF32: {
        const auto bits = std::bit_cast<std::array<std::byte, 4>>(value);
        std::copy(bits.begin(), bits.end(), bytes.begin() + static_cast<ptrdiff_t>(at));
        return;
      }
      case WeightFormat::kF16: return PutF16(at, value);
      case WeightFormat::kBf16: {
        bytes[at] = static_cast<std::byte>(ToBf16(value).bits);
        bytes[at + 1] = static_cast<std::byte>(ToBf16(value).bits >> 8);
        return;
      }
      case WeightFormat::kQ8_0: return PutF16(at, value / 128);
      case WeightFormat::kQ4_0: return PutF16(at, value / 8);
      case WeightFormat::kQ4_1: PutF16(at + 2, second); return PutF16(at, value / 8);
      case WeightFormat::kQ5_0: return PutF16(at, value / 16);
      case WeightFormat::kQ5_1: PutF16(at + 2, second); return PutF16(at, value / 16);
      case WeightFormat::kIQ4_NL: return PutF16(at, value / 128);
      case WeightFormat::kQ2_K: PutF16(at + 82, second / 16); return PutF16(at + 80, value / 32);
      case WeightFormat::kQ3_K: return PutF16(at + 108, value / 128);
      case WeightFormat::kIQ4_XS: return PutF16(at, value / 4096);
      case WeightFormat::kQ4_K:
      case WeightFormat::kQ5_K: PutF16(at + 2, second / 64); return PutF16(at, value / 1024);
      case WeightFormat::kQ6_K: return PutF16(at + 208, value / 4096);
    }
  }
};

// Bits [begin, begin + count) of a block, least significant first.
inline uint32_t Bits(const std::byte* block, size_t begin, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t bit = begin + i;
    value |= (static_cast<uint32_t>(block[bit / 8]) >> bit % 8 & 1) << i;
  }
  return value;
}

inline double HalfAt(const std::byte* block, size_t byte) {
  return ToFloat(f16{static_cast<uint16_t>(Bits(block, 8 * byte, 16))});
}

// The 6-bit scale or minimum (`which` 0 or 1) of run `run` of a Q4_K or Q5_K block.
inline uint32_t SixBits(const std::byte* block, size_t run, size_t which) {
  const size_t begin = 8 * 4;  // after the two halves
  if (run < 4) return Bits(block, begin + 8 * (run + 4 * which), 6);
  return Bits(block, begin + 8 * (8 + run - 4) + 4 * which, 4) |
         Bits(block, begin + 8 * (run - 4 + 4 * which) + 6, 2) << 4;
}

inline constexpr int kIQ4Values[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

// The 6-bit scale i of a Q3_K block.
inline int Q3_KScaleBits(const std::byte* block, size_t i) {
  const size_t low = 8 * (96 + i % 8) + (i < 8 ? 0 : 4), high = 8 * (104 + i % 4) + 2 * (i / 4);
  return static_cast<int>(Bits(block, low, 4) | Bits(block, high, 2) << 4) - 32;
}

// Weight i of a block.
inline double SlowWeight(WeightFormat format, const std::byte* block, size_t i) {
  // Of the formats whose 32 nibbles are 16 bytes from `byte` on.
  const auto split = [=](size_t byte) { return Bits(block, 8 * (byte + i % 16) + i / 16 * 4, 4); };
  const size_t half = i / 128, quarter = i % 128 / 32, lane = i % 32;  // of the K formats
  const size_t nibble = 8 * (lane + i / 64 * 32) + i % 64 / 32 * 4;
  const size_t pair = 8 * (lane + half * 32) + 2 * quarter;
  switch (format) {
    case WeightFormat::kF32: return std::bit_cast<float>(Bits(block, 0, 32));
    case WeightFormat::kF16: return HalfAt(block, 0);
    case WeightFormat::kBf16: return ToFloat(bf16{static_cast<uint16_t>(Bits(block, 0, 16))});
    case WeightFormat::kQ8_0:
      return HalfAt(block, 0) * static_cast<int8_t>(Bits(block, 16 + 8 * i, 8));
    case WeightFormat::kQ4_0: return HalfAt(block, 0) * (static_cast<double>(split(2)) - 8);
    case WeightFormat::kQ4_1: return HalfAt(block, 0) * split(4) + HalfAt(block, 2);
    case WeightFormat::kQ5_0: {
      const uint32_t q = split(6) | Bits(block, 16 + i, 1) << 4;
      return HalfAt(block, 0) * (static_cast<double>(q) - 16);
    }
    case WeightFormat::kQ5_1: {
      const uint32_t q = split(8) | Bits(block, 32 + i, 1) << 4;
      return HalfAt(block, 0) * q + HalfAt(block, 2);
    }
    case WeightFormat::kIQ4_NL: return HalfAt(block, 0) * kIQ4Values[split(2)];
    case WeightFormat::kQ2_K:
      return HalfAt(block, 80) * Bits(block, 8 * (i / 16), 4) * Bits(block, 8 * 16 + pair, 2) -
             HalfAt(block, 82) * Bits(block, 8 * (i / 16) + 4, 4);
    case WeightFormat::kQ3_K: {
      const uint32_t q = Bits(block, 8 * 32 + pair, 2) | Bits(block, 8 * lane + i / 32, 1) << 2;
      return HalfAt(block, 108) * Q3_KScaleBits(block, i / 16) * (static_cast<double>(q) - 4);
    }
    case WeightFormat::kIQ4_XS: {
      const size_t run = i / 32;
      const int scale =
          static_cast<int>(Bits(block, 8 * 4 + 4 * run, 4) | Bits(block, 8 * 2 + 2 * run, 2) << 4) -
          32;
      return HalfAt(block, 0) * scale *
             kIQ4Values[Bits(block, 8 * (8 + 16 * run + lane % 16) + lane / 16 * 4, 4)];
    }
    case WeightFormat::kQ4_K:
      return HalfAt(block, 0) * SixBits(block, i / 32, 0) * Bits(block, 8 * 16 + nibble, 4) -
             HalfAt(block, 2) * SixBits(block, i / 32, 1);
    case WeightFormat::kQ5_K: {
      const uint32_t q = Bits(block, 8 * 48 + nibble, 4) | Bits(block, 8 * (16 + lane) + i / 32, 1)
                                                               << 4;
      return HalfAt(block, 0) * SixBits(block, i / 32, 0) * q -
             HalfAt(block, 2) * SixBits(block, i / 32, 1);
    }
    case WeightFormat::kQ6_K: {
      const size_t low = 8 * (64 * half + 32 * (quarter % 2) + lane) + 4 * (quarter / 2);
      const size_t high = 8 * (128 + 32 * half + lane) + 2 * quarter;
      const uint32_t q = Bits(block, low, 4) | Bits(block, high, 2) << 4;
      return HalfAt(block, 208) * static_cast<int8_t>(Bits(block, 8 * (192 + i / 16), 8)) *
             (static_cast<double>(q) - 32);
    }
  }
  return 0;
}

inline std::vector<double> SlowWeights(const WeightView& weights) {
  const WeightBlock block = BlockOf(weights.format);
  std::vector<double> out(weights.rows * weights.cols);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = SlowWeight(weights.format, weights.data + i / block.num_weights * block.num_bytes,
                        i % block.num_weights);
  }
  return out;
}

}  // namespace kvship
