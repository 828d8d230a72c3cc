// Random numbers as a pure function of what they are for: the same (seed, index) gives the same
// number on every node, whoever else is in the batch. SplitMix64's finaliser (Steele, Lea, Flood:
// "Fast splittable pseudorandom number generators", 2014).
#pragma once

#include <cstdint>

namespace kvship {

constexpr uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// 64 random bits for the index-th draw of a seed.
constexpr uint64_t RandomBits(uint64_t seed, uint64_t index) {
  return MixBits(MixBits(seed) ^ MixBits(~index));
}

// Uniform in [0, 1), with 53 random bits.
constexpr double UniformUnit(uint64_t seed, uint64_t index) {
  return static_cast<double>(RandomBits(seed, index) >> 11) * 0x1p-53;
}

}  // namespace kvship
