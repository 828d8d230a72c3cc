// The selector takes a layer's best tokens, beside those that are always kept: each head's own, or
// whole chunks for all heads together. Ties go to the smallest position, NaN is the smallest score.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor_view.h"
#include "kv/plan.h"

namespace kvship {

// The scores of the positions between a head's sinks and its recent tokens, in order: -infinity
// where `scores`, those of the positions from 0, has none. S + N <= T.
std::vector<float> MiddleScores(std::span<const float> scores, size_t prompt_tokens,
                                const HeadBudget& budget);

// budget.tokens positions, ascending: sinks, recent tokens, and the best between them. `budget`
// holds what is always kept, and is at most the prompt.
std::vector<int32_t> SelectTokens(std::span<const float> scores, size_t prompt_tokens,
                                  const HeadBudget& budget);

// The positions of the best `num_chunks` of the prompt's chunks of `chunk_tokens` (the last one may
// be shorter), ascending. A chunk's score is the mean over its tokens of the sum over the heads of
// scores [heads, num_scored], where always-kept tokens count as the layer's largest score plus 1,
// and tokens without a score as its smallest. Source: ChunkKV, arXiv 2502.00299, in kvpress' form.
std::vector<int32_t> SelectChunks(TensorView scores, size_t prompt_tokens, const HeadBudget& budget,
                                  size_t chunk_tokens, size_t num_chunks);

}  // namespace kvship
