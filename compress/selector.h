// The selector picks a layer's best tokens beside the always-kept ones: per head, or in whole
// chunks for all heads. Ties go to the smallest position; NaN is the lowest score. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor_view.h"
#include "kv/plan.h"

namespace kvship {

// The scores of the positions between a head's S sinks and its N recent tokens, in order. `scores`
// begins at position 0; positions past its end get -infinity. S + N <= T.
std::vector<float> MiddleScores(std::span<const float> scores, size_t prompt_tokens,
                                const HeadBudget& budget);

// Returns budget.tokens positions, ascending: sinks, recent tokens and the best in between.
// `budget` holds at least the always-kept tokens and at most the prompt.
std::vector<int32_t> SelectTokens(std::span<const float> scores, size_t prompt_tokens,
                                  const HeadBudget& budget);

// Returns the positions of the best `num_chunks` chunks of `chunk_tokens` (the last may be
// shorter), ascending. A chunk's score is the mean over its tokens of scores [heads, num_scored]
// summed over heads; always-kept tokens count as the layer's largest score plus 1, tokens without a
// score as its smallest. Source: ChunkKV, arXiv 2502.00299, in kvpress' form.
std::vector<int32_t> SelectChunks(TensorView scores, size_t prompt_tokens, const HeadBudget& budget,
                                  size_t chunk_tokens, size_t num_chunks);

}  // namespace kvship
