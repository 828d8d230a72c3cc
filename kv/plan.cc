#include "kv/plan.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kv/policies.h"

namespace kvship {
namespace {

// The mean budget of a head: ratio * T unrounded, for allocators that share it out.
double ExactBudget(const CompressionOptions& options, size_t prompt_tokens) {
  return options.budget_ratio > 0 ? options.budget_ratio * static_cast<double>(prompt_tokens)
                                  : static_cast<double>(options.budget_tokens);
}

// The tokens at the end that are kept for the window's sake: as many as it has, or, where those
// from its start on have no scores, all of these.
size_t WindowsRecent(const ScorerTraits& traits, const KvPlan& plan) {
  return (traits.scores_window ? plan.window_end : plan.prompt_tokens) - plan.window_begin;
}

// PyramidKV (arXiv 2406.02069): budgets fall from the first layer to the last by equal steps, in
// kvpress' form, and uniform where the first layer cannot hold the mean; but where its last layer
// would not hold what is always kept, what is left beside that falls, as in the authors' code,
// where kvpress would have no pyramid.
std::vector<size_t> PyramidBudgets(const CompressionOptions& options, double base,
                                   size_t num_layers, const KvPlan& plan) {
  const ScorerTraits& traits = TraitsOf(options.scorer);
  const size_t window = WindowsRecent(traits, plan);
  const auto always = static_cast<double>(options.sinks.value_or(traits.sinks) +
                                          std::max(window, options.recent_tokens.value_or(0)));
  const double beside = base / options.beta < always ? always : 0;
  const double most =
      static_cast<double>(plan.prompt_tokens) - std::max(static_cast<double>(window), beside);
  const double mean = base - beside;
  double low = mean / options.beta;
  double high = 2 * mean - low;
  if (high >= most) {
    high = most;
    low = 2 * mean - high;
  }
  std::vector<size_t> budgets(num_layers, static_cast<size_t>(std::nearbyint(base)));
  if (mean < 0 || low > high) return budgets;
  const double step = num_layers > 1 ? (high - low) / static_cast<double>(num_layers - 1) : 0.0;
  for (size_t layer = 0; layer < num_layers; ++layer) {
    // To the nearest, half to even, as Python rounds.
    budgets[layer] =
        static_cast<size_t>(std::nearbyint(beside + high - static_cast<double>(layer) * step));
  }
  return budgets;
}

HeadBudget MakeHeadBudget(const CompressionOptions& options, size_t tokens, const KvPlan& plan) {
  const ScorerTraits& traits = TraitsOf(options.scorer);
  HeadBudget budget;
  budget.tokens = tokens;
  budget.sinks = options.sinks.value_or(traits.sinks);
  auto recent = [&]() -> size_t {
    switch (traits.recent) {
      case ScorerTraits::Recent::kOne: return 1;
      case ScorerTraits::Recent::kWindow: return WindowsRecent(traits, plan);
      case ScorerTraits::Recent::kHalf: return tokens / 2;
      case ScorerTraits::Recent::kAllButSinks: return tokens - std::min(tokens, budget.sinks);
    }
    return 0;
  };
  budget.recent_tokens = options.recent_tokens ? *options.recent_tokens : recent();
  return budget;
}

absl::Status CheckHeadBudget(const CompressionOptions& options, const HeadBudget& budget,
                             size_t layer, size_t prompt_tokens) {
  if (budget.tokens >= std::max<size_t>(1, budget.sinks + budget.recent_tokens)) {
    return absl::OkStatus();
  }
  const std::string field = options.budget_ratio > 0
                                ? absl::StrCat("budget_ratio is ", options.budget_ratio,
                                               " of the prompt's ", prompt_tokens, " tokens")
                                : absl::StrCat("budget_tokens is ", options.budget_tokens);
  return absl::InvalidArgumentError(absl::StrCat(
      "compression option ", field, ", which gives a head of layer ", layer, " ", budget.tokens,
      " tokens; wanted at least the ", budget.sinks + budget.recent_tokens,
      " that are always kept (sinks ", budget.sinks, " + recent_tokens ", budget.recent_tokens,
      ") and 1, or min_tokens at least the prompt's length"));
}

// What one layer keeps over its heads together, at most.
size_t LayerTokens(const CompressionOptions& options, const KvPlan& plan, size_t budget) {
  if (options.selector != "chunks") return plan.num_heads * budget;
  return plan.num_heads *
         std::min(plan.prompt_tokens,
                  NumChunks(options, plan.prompt_tokens, budget) * options.chunk_tokens);
}

// The window as positions of this prompt.
absl::Status SetWindow(const CompressionOptions& options, KvPlan* plan) {
  const auto prompt_tokens = static_cast<int64_t>(plan->prompt_tokens);
  auto position = [&](std::optional<int64_t> given, int64_t otherwise) {
    if (!given.has_value()) return otherwise;
    return *given < 0 ? prompt_tokens + *given : *given;
  };
  const int64_t end = position(options.observe_end, prompt_tokens);
  const int64_t begin = position(options.observe_begin,
                                 std::max<int64_t>(0, end - static_cast<int64_t>(options.window)));
  if (!(begin >= 0 && begin < end && end <= prompt_tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("compression options observe_begin and observe_end choose the tokens ", begin,
                     " to ", end, "; wanted a range within the prompt's ", prompt_tokens));
  }
  // A vote needs something before the window to vote for.
  if (options.scorer == "snapkv" && begin == 0) {
    const bool is_last = !options.observe_begin && !options.observe_end;
    return absl::InvalidArgumentError(
        absl::StrCat("compression option ", is_last ? "window" : "observe_begin", " is ",
                     is_last ? options.window : 0, " and the prompt has ", prompt_tokens,
                     " tokens; wanted a window that does not begin at the prompt's start"));
  }
  plan->window_begin = static_cast<size_t>(begin);
  plan->window_end = static_cast<size_t>(end);
  return absl::OkStatus();
}

absl::Status SetBudgets(const CompressionOptions& options, KvPlan* plan, size_t num_layers) {
  const double exact = ExactBudget(options, plan->prompt_tokens);
  std::vector<size_t> tokens(num_layers, static_cast<size_t>(exact));
  if (options.allocator == "pyramid") {
    tokens = PyramidBudgets(options, exact, num_layers, *plan);
  }
  for (size_t layer = 0; layer < num_layers; ++layer) {
    const size_t most = std::min(tokens[layer], plan->prompt_tokens);
    const HeadBudget budget = MakeHeadBudget(options, most, *plan);
    RETURN_IF_ERROR(CheckHeadBudget(options, budget, layer, plan->prompt_tokens));
    plan->budgets.push_back(budget);
    plan->layer_tokens.push_back(LayerTokens(options, *plan, most));
  }
  plan->bounded =
      options.allocator == "ada" || options.allocator == "mass" || options.selector == "chunks";
  return absl::OkStatus();
}

// The last tokens that every head keeps and that lie in the window may stay in full precision.
void SetTail(const CompressionOptions& options, KvPlan* plan) {
  if (!options.window_encoder.has_value() || *options.window_encoder == plan->format) return;
  plan->window_format = *options.window_encoder;
  if (plan->keeps_whole) {
    plan->tail_tokens = std::min(options.window, plan->prompt_tokens);
    return;
  }
  // Chunks are kept or dropped whole: no token is kept for certain.
  if (options.selector == "chunks") return;
  plan->tail_tokens = plan->prompt_tokens - plan->window_begin;
  for (const HeadBudget& budget : plan->budgets) {
    plan->tail_tokens = std::min(plan->tail_tokens, budget.recent_tokens);
  }
}

}  // namespace

size_t NumChunks(const CompressionOptions& options, size_t prompt_tokens, size_t budget_tokens) {
  const size_t chunks = (prompt_tokens + options.chunk_tokens - 1) / options.chunk_tokens;
  const bool by_ratio = options.budget_ratio > 0 && options.allocator == "uniform";
  const size_t kept = by_ratio
                          ? static_cast<size_t>(static_cast<double>(chunks) * options.budget_ratio)
                          : chunks * budget_tokens / prompt_tokens;
  return std::max<size_t>(1, kept);
}

size_t KvPlan::layer_pages(size_t layer) const {
  const size_t prefix_tokens = layer_tokens[layer] - num_heads * tail_tokens;
  if (!bounded) return num_heads * PagesFor(prefix_tokens / num_heads);
  // However the tokens are split, each head wastes less than a page, and none keeps more than all.
  return std::min((prefix_tokens + num_heads * (kPageTokens - 1)) / kPageTokens,
                  num_heads * PagesFor(prompt_tokens - tail_tokens));
}

size_t KvPlan::num_pages() const {
  size_t pages = 0;
  for (size_t layer = 0; layer < layer_tokens.size(); ++layer) pages += layer_pages(layer);
  return pages;
}

size_t KvPlan::page_bytes() const {
  return num_pages() * PageBytes(format, head_dim) +
         layer_tokens.size() * layer_tail_pages() * PageBytes(window_format, head_dim);
}

size_t KvPlan::wire_bytes() const {
  size_t positions = 0;
  for (size_t tokens : layer_tokens) positions += tokens - num_heads * tail_tokens;
  return page_bytes() + (keeps_whole ? 0 : positions * sizeof(int32_t));
}

size_t KvPlan::uncompressed_bytes() const {
  const PageFormat full = IsQuantized(format) ? PageFormat::kF16 : format;
  return layer_tokens.size() * num_kv_heads * PagesFor(prompt_tokens) * PageBytes(full, head_dim);
}

absl::StatusOr<KvPlan> MakePlan(const CompressionOptions& options, const KvShape& shape,
                                size_t prompt_tokens) {
  RETURN_IF_ERROR(options.Validate());
  if (prompt_tokens == 0) {
    return absl::InvalidArgumentError("the prompt has 0 tokens; wanted at least 1");
  }
  if ((options.encoder == PageFormat::kInt8 || options.encoder == PageFormat::kInt4) &&
      shape.head_dim % kValueGroup != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("compression option encoder is '", PageFormatName(options.encoder),
                     "' and the model's head size is ", shape.head_dim, "; wanted a multiple of ",
                     kValueGroup, " with it"));
  }
  KvPlan plan;
  plan.prompt_tokens = prompt_tokens;
  plan.head_dim = shape.head_dim;
  plan.format = options.encoder;
  plan.num_kv_heads = shape.num_kv_heads;
  plan.num_heads = shape.num_kv_heads;

  const auto budget = static_cast<size_t>(ExactBudget(options, prompt_tokens));
  if (options.keeps_all() || prompt_tokens <= std::max(budget, options.min_tokens)) {
    plan.keeps_whole = true;
    plan.layer_tokens.assign(shape.num_layers, plan.num_heads * prompt_tokens);
    SetTail(options, &plan);
    return plan;
  }
  if (options.group_reduce == GroupReduce::kNone) plan.num_heads = shape.num_query_heads;
  RETURN_IF_ERROR(SetWindow(options, &plan));
  RETURN_IF_ERROR(SetBudgets(options, &plan, shape.num_layers));
  SetTail(options, &plan);
  return plan;
}

}  // namespace kvship
