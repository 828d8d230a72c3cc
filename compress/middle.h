// The middle of a prompt, where scores decide what is kept: the tokens that chosen_mass counts.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kv/plan.h"

namespace kvship {

// Tokens at the start that draw attention whatever they say. chosen_mass leaves them out even if
// the policy does not always keep them. The number is StreamingLLM's, arXiv 2309.17453.
inline constexpr size_t kAttentionSinks = 4;

struct Middle {
  size_t begin = 0;
  size_t end = 0;
};

inline Middle MiddleOf(const KvPlan& plan, const HeadBudget& budget) {
  const size_t recent = std::max(budget.recent_tokens, plan.prompt_tokens - plan.window_begin);
  const size_t begin = std::min(std::max(budget.sinks, kAttentionSinks), plan.prompt_tokens);
  return {.begin = begin, .end = std::max(begin, plan.prompt_tokens - recent)};
}

}  // namespace kvship
