#include "kernels/token_draw.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "base/random.h"

namespace kvship {
namespace {

// Orders tokens by their distances, then by their ids.
uint64_t KeyOf(uint32_t distance, size_t token) { return uint64_t{distance} << 32 | token; }
uint64_t WeightOf(uint64_t key) { return TokenWeight(static_cast<uint32_t>(key >> 32)); }

// The last of the keys that take part, which are at least one. Their order is lost.
uint64_t LastOfTopP(std::vector<uint64_t>& keys, uint64_t top_p) {
  uint64_t total = 0;
  for (uint64_t key : keys) total += WeightOf(key);
  const uint64_t needed = NeededWeight(top_p, total);
  // Sorting a whole vocabulary takes milliseconds, and the likeliest few hundred usually hold
  // top_p.
  for (size_t count = std::min<size_t>(keys.size(), 256);;
       count = std::min(keys.size(), count * 16)) {
    const auto end = keys.begin() + static_cast<ptrdiff_t>(count);
    std::partial_sort(keys.begin(), end, keys.end());
    uint64_t kept = 0;
    for (auto key = keys.begin(); key != end; ++key) {
      kept += WeightOf(*key);
      if (kept >= needed) return *key;
    }
    assert(count < keys.size());
  }
}

uint64_t LastKey(std::vector<uint64_t> keys, const TokenDraw& draw) {
  uint64_t last = ~uint64_t{0};
  if (draw.top_k > 0 && draw.top_k < keys.size()) {
    const auto end = keys.begin() + draw.top_k;
    std::nth_element(keys.begin(), end - 1, keys.end());
    last = *(end - 1);
    keys.erase(end, keys.end());
  }
  return draw.top_p > 0 ? LastOfTopP(keys, draw.top_p) : last;
}

// The token on which `random`, in units of 2^-64 of all weights, falls. Weights take most of the
// time of a draw: sums of blocks are kept, so that one block's alone are computed twice.
int32_t TokenAt(uint64_t random, const std::vector<uint64_t>& keys) {
  constexpr size_t kBlock = 256;
  std::vector<uint64_t> sums;  // of all keys up to the end of each block
  uint64_t total = 0;
  for (size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, keys.size());
    for (size_t i = begin; i < end; ++i) total += WeightOf(keys[i]);
    sums.push_back(total);
  }
  const uint64_t target = PartOf(random, total);
  const auto block = std::upper_bound(sums.begin(), sums.end(), target) - sums.begin();
  uint64_t left = target - (block == 0 ? 0 : sums[block - 1]);
  auto drawn = keys.begin() + block * kBlock;
  for (uint64_t weight = WeightOf(*drawn); left >= weight; weight = WeightOf(*drawn)) {
    left -= weight;
    ++drawn;
  }
  return static_cast<int32_t>(*drawn & 0xffffffffu);
}

}  // namespace

int32_t LikeliestToken(std::span<const float> logits) {
  float highest = -INFINITY;
  size_t likeliest = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > highest)) continue;
    highest = logits[i];
    likeliest = i;
  }
  return static_cast<int32_t>(likeliest);
}

int32_t DrawToken(std::span<const float> logits, const TokenDraw& draw) {
  assert(!logits.empty() && logits.size() <= kMostDrawnFrom);
  const int32_t likeliest = LikeliestToken(logits);
  const float highest = logits[likeliest];
  if (draw.scale == 0 || !std::isfinite(highest)) return likeliest;
  std::vector<uint64_t> keys;  // of the tokens with a chance, by id
  keys.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const uint32_t distance = TokenDistance(logits[i], highest, draw.scale);
    if (distance != kNoChance) keys.push_back(KeyOf(distance, i));
  }
  if (draw.top_k > 0 || draw.top_p > 0) {
    const uint64_t last = LastKey(keys, draw);
    std::erase_if(keys, [last](uint64_t key) { return key > last; });
  }
  return TokenAt(RandomBits(draw.seed, draw.index), keys);
}

}  // namespace kvship
