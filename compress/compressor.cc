#include "compress/compressor.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/status_macros.h"
#include "compress/scorer.h"
#include "compress/selector.h"
#include "kernels/attention.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

// The share of the window's attention on kept tokens, for one set: the mean over the query heads it
// serves, whose votes are the rows of `votes` [G, T], each the sum over W queries.
float RetainedMass(TensorView votes, size_t window, std::span<const int32_t> kept) {
  double mass = 0;
  for (size_t g = 0; g < votes.dims[0]; ++g) {
    const float* row = votes.f32(g);
    for (int32_t position : kept) mass += row[position];
  }
  mass /= static_cast<double>(votes.dims[0] * window);
  // The votes' normalisation was computed in another order: what is kept can sum to a little more
  // than all.
  return static_cast<float>(std::min(mass, 1.0));
}

}  // namespace

Compressor::Compressor(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan)
    : options_(options), shape_(shape), plan_(plan) {}

Compressor::~Compressor() = default;

absl::StatusOr<std::unique_ptr<Compressor>> Compressor::Create(const CompressionOptions& options,
                                                               const KvShape& shape,
                                                               const KvPlan& plan) {
  std::unique_ptr<Compressor> compressor(new Compressor(options, shape, plan));
  if (!plan.keeps_whole) {
    ASSIGN_OR_RETURN(compressor->scorer_, MakeScorer(options, shape));
  }
  return compressor;
}

LayerNeeds Compressor::needs() const {
  if (plan_.keeps_whole) return {};
  return {.window_begin = plan_.prompt_tokens - options_.window, .window_end = plan_.prompt_tokens};
}

absl::Status Compressor::Select(Backend& backend, const LayerView& layer, bool with_scores,
                                Result* result) {
  const size_t prompt_tokens = plan_.prompt_tokens;
  Array<float> votes_memory(shape_.num_query_heads * prompt_tokens);
  const TensorView votes(votes_memory.data(), {shape_.num_query_heads, prompt_tokens});
  RETURN_IF_ERROR(WindowVotes(backend, {.q = layer.window_queries,
                                        .keys = layer.keys,
                                        .lse = layer.window_lse,
                                        .first_position = layer.window_begin,
                                        .votes = votes}));
  const size_t num_scored = scorer_->num_scored(prompt_tokens);
  Array<float> scores_memory(plan_.num_heads * num_scored);
  const TensorView scores(scores_memory.data(), {plan_.num_heads, num_scored});
  RETURN_IF_ERROR(scorer_->Score(backend, {.layer = layer, .votes = votes}, scores));

  const size_t budget = plan_.layer_tokens[layer.layer] / plan_.num_heads;
  const size_t queries_per_head = shape_.num_query_heads / plan_.num_heads;
  result->positions.resize(plan_.num_heads);
  result->compact.retained_mass.resize(plan_.num_heads);
  backend.threads().ParallelFor(plan_.num_heads, [&](size_t h) {
    result->positions[h] = SelectTokens({scores.f32(h), num_scored}, prompt_tokens, budget,
                                        options_.sinks, options_.effective_recent_tokens());
    result->compact.retained_mass[h] =
        RetainedMass(votes.Slice(0, h * queries_per_head, queries_per_head), options_.window,
                     result->positions[h]);
  });
  if (with_scores) {
    for (size_t h = 0; h < plan_.num_heads; ++h) {
      result->scores.emplace_back(scores.f32(h), scores.f32(h) + num_scored);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Compressor::Result> Compressor::Compress(Backend& backend, const LayerView& layer,
                                                        bool with_scores) {
  Result result;
  CompactLayer& compact = result.compact;
  compact.layer = layer.layer;
  if (plan_.keeps_whole) {
    std::vector<int32_t> all(plan_.prompt_tokens);
    std::iota(all.begin(), all.end(), 0);
    result.positions.assign(plan_.num_heads, all);
    compact.retained_mass.assign(plan_.num_heads, 1.0f);
  } else {
    RETURN_IF_ERROR(Select(backend, layer, with_scores, &result));
  }
  for (const auto& kept : result.positions) {
    compact.kept_tokens.push_back(static_cast<uint32_t>(kept.size()));
  }
  const LayerLayout layout = LayoutOf(plan_, compact.kept_tokens);
  compact.bytes = Buffer(layout.num_bytes);
  backend.threads().ParallelFor(plan_.num_heads, [&](size_t h) {
    const HeadBytes& head = layout.heads[h];
    const std::vector<int32_t>& kept = result.positions[h];
    std::byte* bytes = compact.bytes.data();
    std::memcpy(bytes + head.positions_offset, kept.data(), head.num_positions * sizeof(int32_t));
    const size_t kv_head = h * shape_.num_kv_heads / plan_.num_heads;
    const TensorView keys(layer.keys.f32(kv_head), {layer.keys.dims[1], layer.keys.dims[2]});
    const TensorView values(layer.values.f32(kv_head),
                            {layer.values.dims[1], layer.values.dims[2]});
    GatherPages(plan_.format, keys, values, kept, bytes + head.pages_offset);
  });
  return result;
}

}  // namespace kvship
