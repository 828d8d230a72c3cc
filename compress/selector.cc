#include "compress/selector.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/scores.h"

namespace kvship {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The smallest and the largest score that is a number.
std::pair<float, float> Range(TensorView scores) {
  std::pair<float, float> range = {kInfinity, -kInfinity};
  for (size_t h = 0; h < scores.dims[0]; ++h) {
    for (size_t i = 0; i < scores.dims[1]; ++i) {
      const float score = scores.f32(h)[i];
      if (std::isnan(score)) continue;
      range = {std::min(range.first, score), std::max(range.second, score)};
    }
  }
  return range;
}

// The sum over the heads of each position's score, as chunks count it.
std::vector<double> SumOfHeads(TensorView scores, size_t prompt_tokens, const HeadBudget& budget) {
  const auto [smallest, largest] = Range(scores);
  const double num_heads = static_cast<double>(scores.dims[0]);
  std::vector<double> sums(prompt_tokens, num_heads * smallest);
  for (size_t i = 0; i < scores.dims[1]; ++i) {
    sums[i] = 0;
    for (size_t h = 0; h < scores.dims[0]; ++h) sums[i] += scores.f32(h)[i];
  }
  const double always_kept = num_heads * (double{largest} + 1);
  std::fill_n(sums.begin(), budget.sinks, always_kept);
  std::fill(sums.end() - static_cast<ptrdiff_t>(budget.recent_tokens), sums.end(), always_kept);
  return sums;
}

}  // namespace

std::vector<float> MiddleScores(std::span<const float> scores, size_t prompt_tokens,
                                const HeadBudget& budget) {
  assert(budget.sinks + budget.recent_tokens <= prompt_tokens);
  const size_t end = prompt_tokens - budget.recent_tokens;
  std::vector<float> middle(end - budget.sinks, -kInfinity);
  const size_t scored_end = std::min(end, scores.size());
  for (size_t i = budget.sinks; i < scored_end; ++i) middle[i - budget.sinks] = scores[i];
  return middle;
}

std::vector<int32_t> SelectTokens(std::span<const float> scores, size_t prompt_tokens,
                                  const HeadBudget& budget) {
  assert(budget.tokens >= budget.sinks + budget.recent_tokens && budget.tokens <= prompt_tokens);
  std::vector<int32_t> kept(budget.sinks);
  std::iota(kept.begin(), kept.end(), 0);
  for (int32_t i : TopPositions(MiddleScores(scores, prompt_tokens, budget),
                                budget.tokens - budget.sinks - budget.recent_tokens)) {
    kept.push_back(static_cast<int32_t>(budget.sinks) + i);
  }
  for (size_t i = prompt_tokens - budget.recent_tokens; i < prompt_tokens; ++i) {
    kept.push_back(static_cast<int32_t>(i));
  }
  return kept;
}

std::vector<int32_t> SelectChunks(TensorView scores, size_t prompt_tokens, const HeadBudget& budget,
                                  size_t chunk_tokens, size_t num_chunks) {
  const std::vector<double> sums = SumOfHeads(scores, prompt_tokens, budget);
  std::vector<float> chunk_scores;
  for (size_t begin = 0; begin < prompt_tokens; begin += chunk_tokens) {
    const size_t end = std::min(begin + chunk_tokens, prompt_tokens);
    const double sum = std::accumulate(sums.begin() + static_cast<ptrdiff_t>(begin),
                                       sums.begin() + static_cast<ptrdiff_t>(end), 0.0);
    chunk_scores.push_back(static_cast<float>(sum / static_cast<double>(end - begin)));
  }
  std::vector<int32_t> kept;
  for (int32_t chunk : TopPositions(chunk_scores, num_chunks)) {
    const size_t begin = static_cast<size_t>(chunk) * chunk_tokens;
    const size_t end = std::min(begin + chunk_tokens, prompt_tokens);
    for (size_t i = begin; i < end; ++i) kept.push_back(static_cast<int32_t>(i));
  }
  return kept;
}

}  // namespace kvship
