#include "compress/selector.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/scores.h"

namespace kvship {

std::vector<int32_t> SelectTokens(std::span<const float> scores, size_t prompt_tokens,
                                  size_t budget, size_t sinks, size_t recent_tokens) {
  const size_t begin = std::min(sinks, prompt_tokens);
  const size_t end = std::max(begin, prompt_tokens - std::min(recent_tokens, prompt_tokens));
  std::vector<float> candidates(end - begin, -std::numeric_limits<float>::infinity());
  for (size_t i = begin; i < std::min(end, scores.size()); ++i) candidates[i - begin] = scores[i];

  std::vector<int32_t> kept(begin);
  std::iota(kept.begin(), kept.end(), 0);
  const size_t always_kept = begin + prompt_tokens - end;
  for (int32_t position : TopPositions(candidates, budget - always_kept)) {
    kept.push_back(position + static_cast<int32_t>(begin));
  }
  for (size_t i = end; i < prompt_tokens; ++i) kept.push_back(static_cast<int32_t>(i));
  return kept;
}

}  // namespace kvship
