// The allocator decides how many tokens each head of a layer keeps. A pure function.
#pragma once

#include <vector>

#include "base/tensor_view.h"
#include "kv/compression_options.h"
#include "kv/plan.h"

namespace kvship {

// What an allocator sees of a layer. Positions without a score rank below all that have one.
struct LayerScores {
  TensorView scores;         // [heads, num_scored] f32
  TensorView attention;      // [heads, T] f32: window's attention, mean over each head's group
  size_t window_tokens = 0;  // summed over in `attention`
};

// Returns the number of tokens that each head keeps, always-kept tokens included. `budget` is the
// mean per head, B (for mass: the maximum).
//
// - uniform, pyramid: budget.tokens, which pyramid's plan varies by layer;
// - ada (AdaKV, arXiv 2407.11550): every head gets the always-kept tokens A and its best
//   floor(alpha (B - A)); the rest of the layer's H B tokens go to the highest scores over all
//   heads, ties to the smaller head, then to the smaller position;
// - mass: tokens in score order, always-kept tokens first, until their share of the window's
//   attention reaches mass_target; at least mass_min_tokens, at most B.
//
// If one set of scores serves the whole layer, all heads keep the same number.
std::vector<size_t> AllocateTokens(const CompressionOptions& options, const HeadBudget& budget,
                                   const LayerScores& layer);

}  // namespace kvship
