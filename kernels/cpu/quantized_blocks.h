// The quantized weight formats, block by block, as unsigned bytes with a scale and a minimum per 32
// weights: weight i is scale * bytes[i] + minimum. Every format whose scales hold for runs of 32
// can be written this way without rounding. Inline, because unpacking spends its time here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/float16.h"
#include "kernels/weight_format.h"

namespace kvship {

// Weights per scale in the byte form, and per rounded block of activations.
inline constexpr size_t kByteRun = 32;
// Such a block of activations takes 16 bits for each: high bytes [32] and low bytes [32], int8,
// where the processor has VNNI, else [32] int16.
inline constexpr size_t kRoundedRunBytes = 2 * kByteRun;

struct ByteRun {
  uint8_t bytes[kByteRun];
  float scale;
  float minimum;
};

// Whether a format's runs can be written so.
constexpr bool HasByteForm(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K: return true;
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBf16:
    case WeightFormat::kQ6_K: return false;
  }
  return false;
}

inline float LoadF16(const std::byte* at) {
  f16 value;
  std::memcpy(&value, at, sizeof(value));
  return ToFloat(value);
}

// Low nibbles are the first half of the run, high nibbles the second.
inline void SpreadNibbles(const std::byte* packed, uint8_t* bytes) {
  for (size_t i = 0; i < kByteRun; i += 16) {
    uint64_t word;
    std::memcpy(&word, packed + i / 2, 8);
    const uint64_t low = word & 0x0f0f0f0f0f0f0f0fu;
    const uint64_t high = word >> 4 & 0x0f0f0f0f0f0f0f0fu;
    std::memcpy(bytes + i / 2, &low, 8);
    std::memcpy(bytes + 16 + i / 2, &high, 8);
  }
}

inline void LoadRunQ4_0(const std::byte* block, ByteRun* run) {
  run->scale = LoadF16(block);
  run->minimum = -8.0f * run->scale;
  SpreadNibbles(block + 2, run->bytes);
}

inline void LoadRunQ4_1(const std::byte* block, ByteRun* run) {
  run->scale = LoadF16(block);
  run->minimum = LoadF16(block + 2);
  SpreadNibbles(block + 4, run->bytes);
}

inline void LoadRunQ8_0(const std::byte* block, ByteRun* run) {
  run->scale = LoadF16(block);
  run->minimum = -128.0f * run->scale;
  for (size_t i = 0; i < kByteRun; i += 8) {
    uint64_t word;
    std::memcpy(&word, block + 2 + i, 8);
    word ^= 0x8080808080808080u;  // adds 128 to each signed byte
    std::memcpy(run->bytes + i, &word, 8);
  }
}

// Q4_K and Q5_K: 12 bytes hold eight 6-bit scales and eight 6-bit minimums. Runs 0-3 have theirs in
// the low six bits of bytes 0-3 and 4-7; runs 4-7 have the low four bits in bytes 8-11 (scale low
// nibble, minimum high nibble) and the high two in the top bits of bytes 0-3 and 4-7. A
// constant expression, which CUDA's code shares.
constexpr void LoadSixBitPair(const std::byte* packed, size_t run, uint32_t* scale,
                              uint32_t* minimum) {
  const auto at = [packed](size_t i) { return static_cast<uint32_t>(packed[i]); };
  if (run < 4) {
    *scale = at(run) & 63;
    *minimum = at(run + 4) & 63;
  } else {
    *scale = (at(run + 4) & 15) | (at(run - 4) >> 6) << 4;
    *minimum = at(run + 4) >> 4 | (at(run) >> 6) << 4;
  }
}

// Byte i of each group of 32 holds weight i of an even run (low nibble) and of the odd run after it
// (high nibble).
inline void LoadKNibbles(const std::byte* packed, size_t run, uint8_t* bytes) {
  const uint32_t shift = run % 2 * 4;
  for (size_t i = 0; i < kByteRun; i += 8) {
    uint64_t word;
    std::memcpy(&word, packed + run / 2 * kByteRun + i, 8);
    word = word >> shift & 0x0f0f0f0f0f0f0f0fu;
    std::memcpy(bytes + i, &word, 8);
  }
}

inline void LoadRunQ4_K(const std::byte* block, size_t run, ByteRun* out) {
  uint32_t scale, minimum;
  LoadSixBitPair(block + 4, run, &scale, &minimum);
  out->scale = LoadF16(block) * static_cast<float>(scale);
  out->minimum = -LoadF16(block + 2) * static_cast<float>(minimum);
  LoadKNibbles(block + 16, run, out->bytes);
}

inline void LoadRunQ5_K(const std::byte* block, size_t run, ByteRun* out) {
  uint32_t scale, minimum;
  LoadSixBitPair(block + 4, run, &scale, &minimum);
  out->scale = LoadF16(block) * static_cast<float>(scale);
  out->minimum = -LoadF16(block + 2) * static_cast<float>(minimum);
  LoadKNibbles(block + 48, run, out->bytes);
  // Bit `run` of byte i of the first 32 is the fifth bit of weight i.
  for (size_t i = 0; i < kByteRun; i += 8) {
    uint64_t high, word;
    std::memcpy(&high, block + 16 + i, 8);
    std::memcpy(&word, out->bytes + i, 8);
    word |= (high >> run & 0x0101010101010101u) << 4;
    std::memcpy(out->bytes + i, &word, 8);
  }
}

// Run `run` of a matrix row that has a byte form. `row` is the row's first byte.
inline void LoadByteRun(WeightFormat format, const std::byte* row, size_t run, ByteRun* out) {
  switch (format) {
    case WeightFormat::kQ4_0: return LoadRunQ4_0(row + run * 18, out);
    case WeightFormat::kQ4_1: return LoadRunQ4_1(row + run * 20, out);
    case WeightFormat::kQ8_0: return LoadRunQ8_0(row + run * 34, out);
    case WeightFormat::kQ4_K: return LoadRunQ4_K(row + run / 8 * 144, run % 8, out);
    case WeightFormat::kQ5_K: return LoadRunQ5_K(row + run / 8 * 176, run % 8, out);
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBf16:
    case WeightFormat::kQ6_K: return;
  }
}

}  // namespace kvship
