#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "kernels/scores.h"

namespace kvship {
namespace {

// An integer that orders as the score does, NaN below everything. Both zeros are one.
uint32_t RankOf(float score) {
  if (std::isnan(score)) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace

std::vector<int32_t> TopPositions(std::span<const float> scores, size_t k) {
  std::vector<int32_t> positions(std::min(k, scores.size()));
  if (positions.size() == scores.size()) {
    std::iota(positions.begin(), positions.end(), 0);
    return positions;
  }
  if (k == 0) return positions;
  std::vector<uint32_t> ranks(scores.size());
  std::transform(scores.begin(), scores.end(), ranks.begin(), RankOf);
  std::vector<uint32_t> ordered = ranks;
  std::nth_element(ordered.begin(), ordered.begin() + (k - 1), ordered.end(), std::greater<>());
  const uint32_t boundary = ordered[k - 1];
  // What stands before the k-th is at least as large; of those that equal it, this many are kept.
  size_t num_ties = std::count(ordered.begin(), ordered.begin() + k, boundary);
  size_t num_kept = 0;
  for (size_t i = 0; num_kept < k; ++i) {
    if (ranks[i] < boundary || (ranks[i] == boundary && num_ties == 0)) continue;
    if (ranks[i] == boundary) --num_ties;
    positions[num_kept++] = static_cast<int32_t>(i);
  }
  return positions;
}

std::vector<int32_t> RankedPositions(std::span<const float> scores, size_t k) {
  std::vector<int32_t> positions = TopPositions(scores, k);
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int32_t a, int32_t b) { return RankOf(scores[a]) > RankOf(scores[b]); });
  return positions;
}

}  // namespace kvship
