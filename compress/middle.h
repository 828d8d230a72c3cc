// The middle of a prompt, where scores decide what is kept: the tokens that chosen_mass counts. The
// same for all policies, so that they can be compared.
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

// Up to the window, whose tokens see one another.
inline Middle MiddleOf(const KvPlan& plan) {
  const size_t end = plan.keeps_whole ? plan.prompt_tokens : plan.window_begin;
  return {.begin = std::min(kAttentionSinks, end), .end = end};
}

}  // namespace kvship
