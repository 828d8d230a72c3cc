#include "compress/snapkv.h"

#include <cstring>

#include "base/status_macros.h"
#include "kernels/scores.h"

namespace kvship {

absl::Status SnapKvScorer::Score(Backend& backend, const ScorerInput& input, TensorView scores) {
  const size_t num_scored = scores.dims[1];
  const size_t query_heads = shape_.num_query_heads;
  Array<float> votes_memory(query_heads * num_scored);
  Array<float> pooled_memory(query_heads * num_scored);
  const TensorView votes(votes_memory.data(), {query_heads, num_scored});
  const TensorView pooled(pooled_memory.data(), {query_heads, num_scored});
  if (options_.softmax == SoftmaxOver::kPrefix) {
    RETURN_IF_ERROR(PrefixVotes(backend, input, votes));
  } else {
    for (size_t h = 0; h < query_heads; ++h) {
      std::memcpy(votes.f32(h), input.votes.f32(h), num_scored * sizeof(float));
    }
  }
  if (options_.window_reduce == WindowReduce::kMean) {
    const float share = 1.0f / static_cast<float>(options_.window);
    for (float& vote : votes_memory.span()) vote *= share;
  }
  if (options_.group_reduce == GroupReduce::kNone) {
    return PoolScores(backend, votes, options_.pool, options_.kernel, scores);
  }
  if (options_.group_order == GroupOrder::kAfterPooling) {
    RETURN_IF_ERROR(PoolScores(backend, votes, options_.pool, options_.kernel, pooled));
    return ReduceGroups(backend, pooled, options_.group_reduce, scores);
  }
  const TensorView reduced(pooled_memory.data(), {shape_.num_kv_heads, num_scored});
  RETURN_IF_ERROR(ReduceGroups(backend, votes, options_.group_reduce, reduced));
  return PoolScores(backend, reduced, options_.pool, options_.kernel, scores);
}

absl::Status SnapKvScorer::PrefixVotes(Backend& backend, const ScorerInput& input,
                                       TensorView votes) {
  const LayerView& layer = input.layer;
  const size_t window = options_.window;
  Array<float> lse_memory(shape_.num_query_heads * window);
  const TensorView lse(lse_memory.data(), {shape_.num_query_heads, window});
  RETURN_IF_ERROR(WindowLogSumExp(backend, layer.window_queries, layer.keys, votes.dims[1],
                                  layer.window_begin, lse));
  return WindowVotes(backend, {.q = layer.window_queries,
                               .keys = layer.keys,
                               .lse = lse,
                               .first_position = layer.window_begin,
                               .votes = votes});
}

}  // namespace kvship
