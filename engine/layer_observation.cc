#include "engine/layer_observation.h"

#include <algorithm>
#include <cstring>

#include "kernels/scores.h"

namespace kvship {

LayerObservation::LayerObservation(const ModelConfig& config, size_t num_tokens,
                                   const LayerNeeds& needs)
    : num_tokens_(num_tokens),
      num_query_heads_(config.num_query_heads),
      head_dim_(config.head_dim),
      needs_(needs) {
  const size_t window_rows = num_query_heads_ * needs.num_window_queries();
  window_queries_ = Buffer(window_rows * head_dim_ * sizeof(float));
  window_lse_ = Buffer(window_rows * sizeof(float));
  if (needs.column_sums) column_sums_ = Buffer(num_query_heads_ * num_tokens * sizeof(float));
  if (needs.future_tokens > 0) {
    const size_t query_bytes = num_query_heads_ * head_dim_ * sizeof(float);
    moments_ = QueryMoments(config, num_tokens, needs.future_tokens);
    query_mean_ = Buffer(query_bytes);
    query_covariance_ = Buffer(query_bytes * head_dim_);
  }
}

size_t LayerObservation::BytesFor(const ModelConfig& config, size_t num_tokens,
                                  const LayerNeeds& needs) {
  const size_t heads = config.num_query_heads, d = config.head_dim;
  size_t floats = heads * needs.num_window_queries() * (d + 1);
  if (needs.column_sums) floats += heads * num_tokens;
  if (needs.future_tokens == 0) return floats * sizeof(float);
  floats += heads * d * (1 + d);
  return floats * sizeof(float) + QueryMoments::BytesFor(config);
}

void LayerObservation::Clear() {
  std::fill_n(column_sums_.as<float>(), column_sums_.num_bytes() / sizeof(float), 0.0f);
  moments_.Clear();
}

absl::Status LayerObservation::AddBeforeRope(Backend& backend, size_t begin, TensorView queries) {
  const size_t end = begin + queries.dims[0];
  if (needs_.future_tokens == 0 || end <= needs_.moments_begin) return absl::OkStatus();
  const size_t first = std::max(begin, needs_.moments_begin);
  return moments_.Add(backend, queries.Slice(0, first - begin, end - first));
}

absl::Status LayerObservation::AddAttention(Backend& backend, size_t begin, TensorView queries,
                                            TensorView lse, TensorView keys) {
  KeepWindowQueries(begin, queries, lse);
  if (!needs_.column_sums) return absl::OkStatus();
  WindowVotesArgs votes;
  votes.q = queries.Transposed(0, 1);
  votes.keys = keys;
  votes.lse = lse;
  votes.first_position = begin;
  votes.accumulate = true;
  // Of the keys seen so far.
  votes.votes = TensorView(column_sums_.as<float>(), {num_query_heads_, num_tokens_})
                    .Slice(1, 0, begin + queries.dims[0]);
  return WindowVotes(backend, votes);
}

void LayerObservation::KeepWindowQueries(size_t begin, TensorView queries, TensorView lse) {
  const size_t window = needs_.num_window_queries();
  const size_t first = std::max(begin, needs_.window_begin);
  const size_t last = std::min(begin + queries.dims[0], needs_.window_end);
  for (size_t h = 0; h < num_query_heads_; ++h) {
    for (size_t i = first; i < last; ++i) {
      const size_t slot = h * window + i - needs_.window_begin;
      std::memcpy(window_queries_.as<float>() + slot * head_dim_, queries.f32(i - begin, h),
                  head_dim_ * sizeof(float));
      window_lse_.as<float>()[slot] = lse.f32(h)[i - begin];
    }
  }
}

void LayerObservation::Finish(Backend& backend) {
  if (needs_.future_tokens == 0) return;
  LayerView view;
  ShowIn(&view);
  moments_.Turned(backend, view.query_mean, view.query_covariance);
}

void LayerObservation::ShowIn(LayerView* view) {
  const size_t window = needs_.num_window_queries();
  view->window_queries =
      TensorView(window_queries_.as<float>(), {num_query_heads_, window, head_dim_});
  view->window_lse = TensorView(window_lse_.as<float>(), {num_query_heads_, window});
  view->window_begin = needs_.window_begin;
  if (needs_.column_sums) {
    view->column_sums = TensorView(column_sums_.as<float>(), {num_query_heads_, num_tokens_});
  }
  if (needs_.future_tokens > 0) {
    view->query_mean = TensorView(query_mean_.as<float>(), {num_query_heads_, head_dim_});
    view->query_covariance =
        TensorView(query_covariance_.as<float>(), {num_query_heads_, head_dim_, head_dim_});
  }
}

}  // namespace kvship
