#include "compress/compressor.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/status_macros.h"
#include "compress/allocator.h"
#include "compress/middle.h"
#include "compress/scorer.h"
#include "compress/selector.h"
#include "kernels/attention.h"
#include "kernels/scores.h"
#include "kv/layer_needs.h"

namespace kvship {
namespace {

// Of the attention [T], the share that falls on kept tokens (ascending) of [begin, end); 1 if there
// is none.
float KeptShare(std::span<const float> attention, std::span<const int32_t> kept, Middle range) {
  double all = 0;
  for (size_t i = range.begin; i < range.end; ++i) all += attention[i];
  double mass = 0;
  for (int32_t position : kept) {
    const auto i = static_cast<size_t>(position);
    if (i >= range.begin && i < range.end) mass += attention[i];
  }
  // Added in the same order, what is kept is never more than all.
  return all == 0 ? 1.0f : static_cast<float>(mass / all);
}

// Whether the window's attention of the query heads [begin, end) is one of numbers. Where the
// model's activations have overflowed it is not, and a vote takes NaN for no attention.
bool IsFinite(const LayerView& layer, size_t begin, size_t end) {
  const TensorView& queries = layer.window_queries;  // [Hq, W, D]
  bool finite = true;
  for (size_t head = begin; head < end; ++head) {
    for (size_t w = 0; w < queries.dims[1]; ++w) {
      finite &= std::isfinite(layer.window_lse.f32(head)[w]);  // of all keys that it sees
      const float* const query = queries.f32(head, w);
      for (size_t d = 0; d < queries.dims[2]; ++d) finite &= std::isfinite(query[d]);
    }
  }
  return finite;
}

TensorView HeadRows(const TensorView& rows, size_t head) {
  return TensorView(rows.f32(head), {rows.dims[1], rows.dims[2]});
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
    ASSIGN_OR_RETURN(compressor->scorer_, MakeScorer(options, shape, plan));
  }
  return compressor;
}

size_t Compressor::BytesFor(const CompressionOptions& options, const KvShape& shape,
                            const KvPlan& plan) {
  if (plan.keeps_whole) return 0;
  // Votes, and as many of a softmax over the prefix.
  const size_t kinds = options.softmax == SoftmaxOver::kPrefix ? 2 : 1;
  return kinds * shape.num_query_heads * plan.prompt_tokens * sizeof(float);
}

LayerNeeds Compressor::needs() const { return NeedsOf(options_, plan_); }

absl::StatusOr<bool> Compressor::Vote(Backend& backend, const LayerView& layer) {
  const size_t window = plan_.window_end - plan_.window_begin;
  const size_t begin = num_voters_;
  const size_t voters = std::min(kMostVoters, window - begin);
  if (voters == 0) return true;
  const size_t query_heads = shape_.num_query_heads;
  if (begin == 0) votes_ = Array<float>(query_heads * plan_.prompt_tokens);
  RETURN_IF_ERROR(WindowVotes(
      backend, {.q = layer.window_queries.Slice(1, begin, voters),
                .keys = layer.keys,
                .lse = layer.window_lse.Slice(1, begin, voters),
                .first_position = plan_.window_begin + begin,
                .accumulate = begin > 0,
                .votes = TensorView(votes_.data(), {query_heads, plan_.prompt_tokens})}));
  RETURN_IF_ERROR(scorer_->Watch(backend, layer, begin, voters));
  num_voters_ += voters;
  return num_voters_ == window;
}

absl::Status Compressor::Choose(Backend& backend, const LayerView& layer, bool with_scores,
                                Result* result) {
  const size_t prompt_tokens = plan_.prompt_tokens;
  const size_t num_scored = NumScored(options_, plan_);
  for (bool voted = false; !voted;) {
    ASSIGN_OR_RETURN(voted, Vote(backend, layer));
  }
  Array<float> votes_memory = std::exchange(votes_, {});
  num_voters_ = 0;
  Array<float> attention_memory(plan_.num_heads * prompt_tokens);
  Array<float> scores_memory(plan_.num_heads * num_scored);
  const TensorView votes(votes_memory.data(), {shape_.num_query_heads, prompt_tokens});
  const LayerScores scores = {
      .scores = TensorView(scores_memory.data(), {plan_.num_heads, num_scored}),
      .attention = TensorView(attention_memory.data(), {plan_.num_heads, prompt_tokens}),
      .window_tokens = plan_.window_end - plan_.window_begin};
  RETURN_IF_ERROR(ReduceGroups(backend, votes, GroupReduce::kMean, scores.attention));
  RETURN_IF_ERROR(scorer_->Score(backend, {.layer = layer, .votes = votes}, scores.scores));

  const HeadBudget& budget = plan_.budgets[layer.layer];
  result->positions = Select(backend, scores, budget);
  Measure(backend, layer, scores, result);
  for (size_t h = 0; with_scores && h < plan_.num_heads; ++h) {
    result->scores.emplace_back(scores.scores.f32(h), scores.scores.f32(h) + num_scored);
  }
  return absl::OkStatus();
}

void Compressor::Measure(Backend& backend, const LayerView& layer, const LayerScores& scores,
                         Result* result) {
  const Middle middle = MiddleOf(plan_);
  const size_t group = shape_.num_query_heads / plan_.num_heads;
  CompactLayer& compact = result->compact;
  compact.retained_mass.assign(plan_.num_heads, std::numeric_limits<float>::quiet_NaN());
  compact.chosen_mass = compact.retained_mass;
  backend.threads().ParallelFor(plan_.num_heads, [&](size_t h) {
    if (!IsFinite(layer, h * group, (h + 1) * group)) return;
    const std::span<const float> attention(scores.attention.f32(h), plan_.prompt_tokens);
    const std::vector<int32_t>& kept = result->positions[h];
    compact.retained_mass[h] = KeptShare(attention, kept, {0, plan_.prompt_tokens});
    compact.chosen_mass[h] = KeptShare(attention, kept, middle);
  });
}

std::vector<std::vector<int32_t>> Compressor::Select(Backend& backend, const LayerScores& scores,
                                                     const HeadBudget& budget) {
  if (options_.selector == "chunks") {
    return std::vector(
        plan_.num_heads,
        SelectChunks(scores.scores, plan_.prompt_tokens, budget, options_.chunk_tokens,
                     NumChunks(options_, plan_.prompt_tokens, budget.tokens)));
  }
  const std::vector<size_t> tokens = AllocateTokens(options_, budget, scores);
  std::vector<std::vector<int32_t>> positions(plan_.num_heads);
  backend.threads().ParallelFor(plan_.num_heads, [&](size_t h) {
    HeadBudget own = budget;
    own.tokens = tokens[h];
    positions[h] =
        SelectTokens({scores.scores.f32(h), scores.scores.dims[1]}, plan_.prompt_tokens, own);
  });
  return positions;
}

void Compressor::Encode(Backend& backend, const LayerView& layer, Result* result) {
  CompactLayer& compact = result->compact;
  size_t num_tokens = 0;
  size_t num_pages = 0;
  for (const auto& kept : result->positions) {
    compact.kept_tokens.push_back(static_cast<uint32_t>(kept.size()));
    num_tokens += kept.size();
    num_pages += PagesFor(kept.size() - plan_.tail_tokens);
  }
  // The decode side has reserved no more.
  assert(num_tokens <= plan_.layer_tokens[layer.layer]);
  assert(num_pages <= plan_.layer_pages(layer.layer));
  const LayerLayout layout = LayoutOf(plan_, compact.kept_tokens);
  compact.bytes = Buffer(layout.num_bytes);
  std::byte* const bytes = compact.bytes.data();
  backend.threads().ParallelFor(plan_.num_heads, [&](size_t h) {
    const HeadBytes& head = layout.heads[h];
    const std::span<const int32_t> kept = result->positions[h];
    const size_t kv_head = h * shape_.num_kv_heads / plan_.num_heads;
    std::memcpy(bytes + head.positions_offset, kept.data(), head.num_positions * sizeof(int32_t));
    GatherPages(plan_.format, HeadRows(layer.keys, kv_head), HeadRows(layer.values, kv_head),
                kept.first(kept.size() - plan_.tail_tokens), bytes + head.pages_offset);
  });
  if (plan_.tail_tokens == 0) return;
  // Every head keeps them.
  const auto tail = std::span<const int32_t>(result->positions.front()).last(plan_.tail_tokens);
  backend.threads().ParallelFor(shape_.num_kv_heads, [&](size_t h) {
    GatherPages(plan_.window_format, HeadRows(layer.keys, h), HeadRows(layer.values, h), tail,
                bytes + layout.tails_offset + h * layout.tail_bytes);
  });
}

absl::StatusOr<Compressor::Result> Compressor::Compress(Backend& backend, const LayerView& layer,
                                                        bool with_scores) {
  Result result;
  result.compact.layer = layer.layer;
  if (plan_.keeps_whole) {
    std::vector<int32_t> all(plan_.prompt_tokens);
    std::iota(all.begin(), all.end(), 0);
    result.positions.assign(plan_.num_heads, all);
    result.compact.retained_mass.assign(plan_.num_heads, 1.0f);
    result.compact.chosen_mass.assign(plan_.num_heads, 1.0f);
  } else {
    RETURN_IF_ERROR(Choose(backend, layer, with_scores, &result));
  }
  Encode(backend, layer, &result);
  return result;
}

}  // namespace kvship
