// The allocator says how many tokens each head of a layer keeps.
#pragma once

#include <vector>

#include "base/tensor_view.h"
#include "kv/compression_options.h"
#include "kv/plan.h"

namespace kvship {

// What an allocator may look at. Positions without a score come after all that have one.
struct LayerScores {
  TensorView scores;         // [heads, num_scored] f32
  TensorView attention;      // [heads, T] f32: the window's attention, mean over each head's group
  size_t window_tokens = 0;  // which `attention` is the sum over
};

// Tokens that each head keeps, always-kept ones included, given their mean (or the most that one
// may keep) `budget`:
//
// - uniform, pyramid: budget.tokens, which pyramid's plan gives layer by layer;
// - ada (AdaKV, arXiv 2407.11550): every head is sure of the always-kept tokens A and its best
//   floor(alpha (B - A)); the other places of the layer, H B in all, go to the highest scores of
//   all heads together, ties to the smaller head, then to the smaller position;
// - mass: tokens in the order of their score, always-kept ones first, until their share of the
//   window's attention reaches mass_target; at least mass_min_tokens, at most B.
//
// The scores of one set for the whole layer are the same for every head, and so is what it gets.
std::vector<size_t> AllocateTokens(const CompressionOptions& options, const HeadBudget& budget,
                                   const LayerScores& layer);

}  // namespace kvship
