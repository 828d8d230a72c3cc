// Draws the next token from logits, the same one on every device: integers decide, whose sum does
// not depend on the order of addition, and no library's exponential is used. Pure functions, shared
// by CPU and CUDA code.
//
//   distance of a token = log2 of how many times the likeliest token is more likely
//   weight of a token = 2^-distance
//
// `farthest` keeps the tokens up to that distance, top_k the nearest of these, then top_p the
// smallest set of the nearest with that share of the weights; ties go to the smallest id. One of
// the remaining tokens is drawn in proportion to its weight, going through them in the order of
// their ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvship {

// A distance has 27 bits after the point, as precise as a float, and 5 before it.
inline constexpr int kHalvingBits = 27;
inline constexpr uint32_t kNoChance = ~uint32_t{0};

// How one token is drawn. Plain data, copied to devices as it is.
struct TokenDraw {
  float scale = 0;     // 2^kHalvingBits log2(e) / temperature; 0: the likeliest token is drawn
  uint32_t top_k = 0;  // only the top_k likeliest; 0: all
  uint64_t top_p = 0;  // in units of 2^-64; 0: all
  uint64_t seed = 0;
  uint64_t index = 0;  // of the output token; each index of a seed has its own random number
  uint32_t farthest = kNoChance;  // only tokens of at most this distance; kNoChance: all
};

// What is drawn where no logit is above -infinity: all are that or NaN.
inline constexpr int32_t kNoToken = -1;

// Draws a token from logits [vocab], vocab from 1 to kMostDrawnFrom. Tokens less than 2^-32 times
// as likely as the likeliest have no chance, nor has NaN; if no token has any though there is a
// likeliest (its logit is infinite) that one is drawn.
int32_t DrawToken(std::span<const float> logits, const TokenDraw& draw);

// The token with the largest logit, ties to the smallest id; kNoToken as above.
int32_t LikeliestToken(std::span<const float> logits);

// log(sum(exp(logits))) of at least one logit; a logit minus this is its token's log-probability.
// NaN counts as -infinity; infinite if the largest logit is.
double LogSumExp(std::span<const float> logits);

// The weights of this many tokens sum to less than 2^64.
inline constexpr size_t kMostDrawnFrom = size_t{1} << 20;

// No product is added to anything, so a compiler has no multiply-add to contract.
constexpr uint32_t TokenDistance(float logit, float highest, float scale, uint32_t farthest) {
  const float exact = (highest - logit) * scale;
  const uint32_t distance = exact < 0x1p32f ? static_cast<uint32_t>(exact) : kNoChance;
  return distance <= farthest ? distance : kNoChance;
}

// The terms of 2^-(x + 1/2): sqrt(1/2) ln(2)^k / k! in units of 2^-30, k to kLastWeightTerm. The
// table is local to the function: nvcc compiles reads of a global one in device code into a trap.
inline constexpr int kLastWeightTerm = 8;
constexpr int32_t WeightTerm(int k) {
  constexpr int32_t kTerms[] = {759250125, 526272083, 182392005, 42141501, 7302566,
                                1012351,   116951,    11581,     1003};
  return kTerms[k];
}

// 2^(43 - distance), with a relative error of 3e-9: a Taylor series around half a halving.
constexpr uint64_t TokenWeight(uint32_t distance) {
  if (distance == kNoChance) return 0;
  // From -1/2 to 1/2, in units of 2^-32: what is above the point is shifted out.
  const auto x = static_cast<int32_t>((distance << (32 - kHalvingBits)) - 0x80000000u);
  int32_t sum = WeightTerm(kLastWeightTerm);
  for (int k = kLastWeightTerm - 1; k >= 0; --k) {
    sum = WeightTerm(k) - static_cast<int32_t>(static_cast<int64_t>(sum) * x >> 32);
  }
  return static_cast<uint64_t>(sum) << 13 >> (distance >> kHalvingBits);
}

// `whole` times `fraction` 2^-64, rounded down.
constexpr uint64_t PartOf(uint64_t fraction, uint64_t whole) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(fraction) * whole >> 64);
}

// The weight that the tokens kept by top_p must reach: at least 1, so that one token is kept.
constexpr uint64_t NeededWeight(uint64_t top_p, uint64_t total) {
  const uint64_t needed = PartOf(top_p, total);
  return needed > 0 ? needed : 1;
}

}  // namespace kvship
