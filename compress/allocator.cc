#include "compress/allocator.h"

#include "compress/selector.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

std::span<const float> Row(TensorView rows, size_t h) { return {rows.f32(h), rows.dims[1]}; }

std::vector<size_t> Ada(double alpha, const HeadBudget& budget, const LayerScores& layer) {
  const size_t num_heads = layer.scores.dims[0];
  const size_t prompt_tokens = layer.attention.dims[1];
  const size_t always = budget.sinks + budget.recent_tokens;
  const auto num_safe = static_cast<size_t>(alpha * static_cast<double>(budget.tokens - always));
  // The scores of what is neither always kept nor safe, head after head.
  std::vector<float> rest;
  for (size_t h = 0; h < num_heads; ++h) {
    const std::vector<float> scores = MiddleScores(Row(layer.scores, h), prompt_tokens, budget);
    const std::vector<int32_t> safe = TopPositions(scores, num_safe);
    auto next_safe = safe.begin();
    for (size_t i = 0; i < scores.size(); ++i) {
      if (next_safe != safe.end() && static_cast<size_t>(*next_safe) == i) {
        ++next_safe;
      } else {
        rest.push_back(scores[i]);
      }
    }
  }
  const size_t rest_per_head = prompt_tokens - always - num_safe;
  std::vector<size_t> tokens(num_heads, always + num_safe);
  for (int32_t i : TopPositions(rest, num_heads * (budget.tokens - always - num_safe))) {
    ++tokens[static_cast<size_t>(i) / rest_per_head];
  }
  return tokens;
}

// How many tokens one head needs to reach the target.
size_t TokensForMass(const CompressionOptions& options, const HeadBudget& budget,
                     std::span<const float> scores, std::span<const float> attention,
                     double target_sum) {
  const size_t prompt_tokens = attention.size();
  const size_t always = budget.sinks + budget.recent_tokens;
  double sum = 0;
  for (size_t i = 0; i < budget.sinks; ++i) sum += attention[i];
  for (size_t i = prompt_tokens - budget.recent_tokens; i < prompt_tokens; ++i) sum += attention[i];
  size_t tokens = always;
  for (int32_t i :
       RankedPositions(MiddleScores(scores, prompt_tokens, budget), budget.tokens - always)) {
    if (tokens >= options.mass_min_tokens && sum >= target_sum) break;
    sum += attention[budget.sinks + static_cast<size_t>(i)];
    ++tokens;
  }
  return tokens;
}

}  // namespace

std::vector<size_t> AllocateTokens(const CompressionOptions& options, const HeadBudget& budget,
                                   const LayerScores& layer) {
  if (options.allocator == "ada") return Ada(options.alpha, budget, layer);
  std::vector<size_t> tokens(layer.scores.dims[0], budget.tokens);
  if (options.allocator == "mass") {
    const double target_sum = options.mass_target * static_cast<double>(layer.window_tokens);
    for (size_t h = 0; h < tokens.size(); ++h) {
      tokens[h] =
          TokensForMass(options, budget, Row(layer.scores, h), Row(layer.attention, h), target_sum);
    }
  }
  return tokens;
}

}  // namespace kvship
