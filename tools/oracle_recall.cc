#include "tools/oracle_recall.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/buffer.h"
#include "base/status_macros.h"
#include "compress/middle.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

absl::Status AddLayer(Backend& backend, const LayerView& layer, size_t prompt_tokens,
                      FutureAttention* future) {
  const size_t num_query_heads = layer.window_queries.dims[0];
  const size_t num_kv_heads = layer.keys.dims[0];
  Array<float> votes(num_query_heads * prompt_tokens);
  Array<float> sums(num_kv_heads * prompt_tokens);
  const TensorView per_query_head(votes.data(), {num_query_heads, prompt_tokens});
  const TensorView per_kv_head(sums.data(), {num_kv_heads, prompt_tokens});
  RETURN_IF_ERROR(WindowVotes(backend, {.q = layer.window_queries,
                                        .keys = layer.keys,
                                        .lse = layer.window_lse,
                                        .first_position = layer.window_begin,
                                        .votes = per_query_head}));
  RETURN_IF_ERROR(ReduceGroups(backend, per_query_head, GroupReduce::kSum, per_kv_head));
  auto& heads = future->emplace_back();
  for (size_t h = 0; h < num_kv_heads; ++h) {
    heads.emplace_back(per_kv_head.f32(h), per_kv_head.f32(h) + prompt_tokens);
  }
  return absl::OkStatus();
}

// The mean of what is a number.
class Mean {
 public:
  void Add(double value) {
    if (std::isnan(value)) return;
    sum_ += value;
    ++count_;
  }
  double value() const { return count_ > 0 ? sum_ / static_cast<double>(count_) : NAN; }

 private:
  double sum_ = 0;
  size_t count_ = 0;
};

}  // namespace

absl::StatusOr<FutureAttention> MeasureFutureAttention(LocalRun& run,
                                                       const std::vector<int32_t>& prompt,
                                                       size_t num_tokens) {
  ASSIGN_OR_RETURN(const CompressionOptions full, ParseCompression("scorer=keep_all"));
  std::vector<int32_t> tokens = prompt;
  {
    ASSIGN_OR_RETURN(auto prefilled, run.Prefill(prompt, full, num_tokens));
    ASSIGN_OR_RETURN(const auto output, run.Generate(prefilled, num_tokens, /*stop_at_end=*/true));
    if (output.size() < 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("the model generated ", output.size(), " of up to ", num_tokens,
                       " tokens; wanted at least 2, as the last one's attention is not looked at"));
    }
    tokens.insert(tokens.end(), output.begin(), output.end() - 1);
  }
  FutureAttention future;
  const LayerNeeds needs = {.window_begin = prompt.size(), .window_end = tokens.size()};
  RETURN_IF_ERROR(run.VisitLayers(tokens, needs, [&](Backend& backend, const LayerView& layer) {
    return AddLayer(backend, layer, prompt.size(), &future);
  }));
  return future;
}

double RecallOf(std::span<const float> future, std::span<const int32_t> kept, size_t begin,
                size_t end) {
  const auto first = std::lower_bound(kept.begin(), kept.end(), static_cast<int32_t>(begin));
  const auto last = std::lower_bound(first, kept.end(), static_cast<int32_t>(end));
  const auto num_kept = static_cast<size_t>(last - first);
  if (num_kept == 0) return NAN;
  size_t num_found = 0;
  for (int32_t wanted : TopPositions(future.subspan(begin, end - begin), num_kept)) {
    num_found += std::binary_search(first, last, wanted + static_cast<int32_t>(begin));
  }
  return static_cast<double>(num_found) / static_cast<double>(num_kept);
}

std::vector<LayerRecall> Recalls(const FutureAttention& future,
                                 const LocalRun::Prefilled& prefilled) {
  const KvPlan& plan = prefilled.plan;
  const Middle middle_of_prompt = MiddleOf(plan);
  std::vector<LayerRecall> recalls;
  for (const Compressor::Result& layer : prefilled.layers) {
    const auto& oracle = future[layer.compact.layer];
    Mean all;
    Mean middle;
    for (size_t h = 0; h < layer.positions.size(); ++h) {
      const std::vector<float>& wanted = oracle[h * oracle.size() / layer.positions.size()];
      all.Add(RecallOf(wanted, layer.positions[h], 0, plan.prompt_tokens));
      middle.Add(
          RecallOf(wanted, layer.positions[h], middle_of_prompt.begin, middle_of_prompt.end));
    }
    recalls.push_back({.all = all.value(), .middle = middle.value()});
  }
  return recalls;
}

}  // namespace kvship
