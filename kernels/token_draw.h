// Drawing the next token from logits, so that every device draws the same one from the same logits:
// what decides is integers, which have one sum in whatever order they are added, and no library's
// exponential. The functions here are shared by the CPU's code and CUDA's.
//
//   distance of a token = log2 of how many times the likeliest token is more likely
//   weight of a token = 2^-distance
//
// `farthest` leaves the tokens up to that distance, top_k of these the nearest, then top_p the
// smallest set of the nearest with that share of the weights; ties go to the smallest id. Of those
// one is drawn in proportion to its weight, by going through them in the order of their ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvship {

// A distance has 27 bits after the point, so that it is exact to a float's own precision, and 5
// before it.
inline constexpr int kHalvingBits = 27;
inline constexpr uint32_t kNoChance = ~uint32_t{0};

// How one token is drawn. Plain data, copied to devices as it is.
struct TokenDraw {
  float scale = 0;     // 2^kHalvingBits log2(e) / temperature; 0: the likeliest token is drawn
  uint32_t top_k = 0;  // only the top_k likeliest; 0: all
  uint64_t top_p = 0;  // in units of 2^-64; 0: all
  uint64_t seed = 0;
  uint64_t index = 0;  // of the output token: of one seed every token has another random number
  uint32_t farthest = kNoChance;  // only tokens of at most this distance; kNoChance: all
};

// The token drawn from logits [vocab], at least one and at most kMostDrawnFrom. A token less than
// 2^-32 times as likely as the likeliest has no chance, nor has NaN; where nobody has one (the
// largest logit is infinite) the likeliest is drawn.
int32_t DrawToken(std::span<const float> logits, const TokenDraw& draw);

// The token with the largest logit, ties to the smallest id. NaN is never chosen unless all are:
// then the token is 0.
int32_t LikeliestToken(std::span<const float> logits);

// Weights of so many tokens add up to less than 2^64.
inline constexpr size_t kMostDrawnFrom = size_t{1} << 20;

// No product is added to anything, so that a compiler which contracts has nothing to contract.
constexpr uint32_t TokenDistance(float logit, float highest, float scale, uint32_t farthest) {
  const float exact = (highest - logit) * scale;
  const uint32_t distance = exact < 0x1p32f ? static_cast<uint32_t>(exact) : kNoChance;
  return distance <= farthest ? distance : kNoChance;
}

// The terms of 2^-(x + 1/2): sqrt(1/2) ln(2)^k / k! in units of 2^-30, k to kLastWeightTerm. Local
// to a function, as device code has no others (nvcc compiles reading them into a trap).
inline constexpr int kLastWeightTerm = 8;
constexpr int32_t WeightTerm(int k) {
  constexpr int32_t kTerms[] = {759250125, 526272083, 182392005, 42141501, 7302566,
                                1012351,   116951,    11581,     1003};
  return kTerms[k];
}

// 2^(43 - distance), to 3e-9 of itself: a Taylor series around half a halving.
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

// Weights that the tokens which top_p leaves have at least: any set has one token.
constexpr uint64_t NeededWeight(uint64_t top_p, uint64_t total) {
  const uint64_t needed = PartOf(top_p, total);
  return needed > 0 ? needed : 1;
}

}  // namespace kvship
