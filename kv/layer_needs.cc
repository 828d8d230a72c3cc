#include "kv/layer_needs.h"

#include "kv/policies.h"

namespace kvship {

LayerNeeds NeedsOf(const CompressionOptions& options, const KvPlan& plan) {
  if (plan.keeps_whole) return {};
  const ScorerTraits::Observes observes = TraitsOf(options.scorer).observes;
  LayerNeeds needs = {.window_begin = plan.window_begin, .window_end = plan.window_end};
  needs.column_sums = observes == ScorerTraits::Observes::kColumnSums;
  if (observes == ScorerTraits::Observes::kMoments) {
    needs.future_tokens = options.future_tokens;
    needs.moments_begin = plan.budgets.front().sinks;  // as many in every layer
  }
  return needs;
}

}  // namespace kvship
