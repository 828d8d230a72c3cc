#include "kv/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {

size_t KvPlan::layer_pages(size_t layer) const {
  return num_heads * PagesFor(layer_tokens[layer] / num_heads);
}

size_t KvPlan::num_pages() const {
  size_t pages = 0;
  for (size_t layer = 0; layer < layer_tokens.size(); ++layer) pages += layer_pages(layer);
  return pages;
}

size_t KvPlan::wire_bytes() const {
  const size_t tokens = std::accumulate(layer_tokens.begin(), layer_tokens.end(), size_t{0});
  return page_bytes() + (keeps_whole ? 0 : tokens * sizeof(int32_t));
}

absl::StatusOr<KvPlan> MakePlan(const CompressionOptions& options, const KvShape& shape,
                                size_t prompt_tokens) {
  RETURN_IF_ERROR(options.Validate());
  if (prompt_tokens == 0) {
    return absl::InvalidArgumentError("the prompt has 0 tokens; wanted at least 1");
  }
  KvPlan plan;
  plan.prompt_tokens = prompt_tokens;
  plan.head_dim = shape.head_dim;
  plan.format = options.encoder;
  plan.num_heads = shape.num_kv_heads;

  const size_t budget = options.budget_ratio > 0
                            ? static_cast<size_t>(options.budget_ratio * prompt_tokens)
                            : options.budget_tokens;
  if (options.keeps_all() || prompt_tokens <= std::max(budget, options.min_tokens)) {
    plan.keeps_whole = true;
    plan.layer_tokens.assign(shape.num_layers, plan.num_heads * prompt_tokens);
    return plan;
  }
  const size_t always_kept = options.sinks + options.effective_recent_tokens();
  if (budget <= always_kept) {
    return absl::InvalidArgumentError(absl::StrCat(
        "compression option budget_ratio is ", options.budget_ratio, ", which is ", budget,
        " of the prompt's ", prompt_tokens, " tokens; wanted more than the ", always_kept,
        " tokens always kept (sinks ", options.sinks, " + recent_tokens ",
        options.effective_recent_tokens(), "), or min_tokens at least the prompt's length"));
  }
  if (prompt_tokens <= options.window) {
    return absl::InvalidArgumentError(
        absl::StrCat("compression option window is ", options.window, " and the prompt has ",
                     prompt_tokens, " tokens; wanted a window shorter than the prompt"));
  }
  if (options.group_reduce == GroupReduce::kNone) plan.num_heads = shape.num_query_heads;
  plan.layer_tokens.assign(shape.num_layers, plan.num_heads * budget);
  return plan;
}

}  // namespace kvship
