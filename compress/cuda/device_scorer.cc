#include "compress/cuda/device_scorer.h"

#include <algorithm>
#include <string>

#include "base/random.h"
#include "base/status_macros.h"
#include "kernels/cuda/expected_scores.h"
#include "kernels/cuda/key_directions.h"
#include "kernels/cuda/pool_scores.h"
#include "kernels/cuda/window_sums.h"

namespace kvship::cuda {
namespace {

// pass(begin, count) for the queries of a window, in its order.
template <class Pass>
absl::Status InPasses(size_t window, Pass pass) {
  for (size_t begin = 0; begin < window; begin += kMostWindowQueries) {
    RETURN_IF_ERROR(pass(begin, std::min(window - begin, kMostWindowQueries)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status OnlyOnTheCpu(absl::string_view option, absl::string_view value,
                          absl::string_view wanted) {
  return absl::UnimplementedError(absl::StrCat("compression.", option, " is ", value, "; wanted ",
                                               wanted, ", which is what runs on a GPU so far"));
}

constexpr DeviceScorer::NamedScore DeviceScorer::kScores[] = {
    {"snapkv", &DeviceScorer::ScoreByWindow},
    {"h2o", &DeviceScorer::ScoreByColumnSums},
    {"tova", &DeviceScorer::ScoreByLastQuery},
    {"streaming_llm", &DeviceScorer::ScoreByTokens<TokenScore::kLate>},
    {"knorm", &DeviceScorer::ScoreByTokens<TokenScore::kSmallNorm>},
    {"keydiff", &DeviceScorer::ScoreByKeyDirections},
    {"expected_attention", &DeviceScorer::ScoreByExpectation},
    {"random", &DeviceScorer::ScoreByTokens<TokenScore::kRandom>}};

DeviceScorer::ScoreFunction DeviceScorer::ScoreOf(absl::string_view scorer) {
  for (const auto& [name, score] : kScores) {
    if (name == scorer) return score;
  }
  return nullptr;
}

absl::Status DeviceScorer::Check(const CompressionOptions& options) {
  if (ScoreOf(options.scorer) == nullptr) {
    std::string names;
    for (const auto& [name, score] : kScores) absl::StrAppend(&names, name, ", ");
    return OnlyOnTheCpu("scorer", options.scorer, absl::StrCat(names, "or keep_all"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceScorer>> DeviceScorer::Create(
    const CompressionOptions& options, const KvShape& shape, const KvPlan& plan, DType dtype,
    cudaStream_t stream) {
  RETURN_IF_ERROR(Check(options));
  std::unique_ptr<DeviceScorer> scorer(new DeviceScorer(options, shape, plan, dtype, stream));
  RETURN_IF_ERROR(CreateBuffers(Sizes(options, shape, plan), *scorer));
  return scorer;
}

BufferSizes<DeviceScorer> DeviceScorer::Sizes(const CompressionOptions& options,
                                              const KvShape& shape, const KvPlan& plan) {
  const ScoreFunction score = ScoreOf(options.scorer);
  const size_t heads = shape.num_query_heads, tokens = plan.prompt_tokens;
  size_t prefix_lse_bytes = 0, workspace_bytes = 0;
  if (score == &DeviceScorer::ScoreByKeyDirections) {
    workspace_bytes = KeyDirectionsWorkspaceBytes(shape.num_kv_heads, tokens, shape.head_dim);
  } else if (score == &DeviceScorer::ScoreByExpectation) {
    workspace_bytes = ExpectedScoresWorkspaceBytes(heads);
  } else if (VotesOverPrefix(options)) {
    const size_t window = plan.window_end - plan.window_begin;
    prefix_lse_bytes = heads * window * sizeof(float);
    workspace_bytes = WindowLogSumExpWorkspaceBytes(heads, std::min(window, kMostWindowQueries),
                                                    plan.window_begin);
  }
  return {{&DeviceScorer::votes_, heads * tokens * sizeof(float)},
          {&DeviceScorer::prefix_lse_, prefix_lse_bytes},
          {&DeviceScorer::workspace_, workspace_bytes}};
}

const void* DeviceScorer::QueriesFrom(const void* queries, size_t begin) const {
  return static_cast<const std::byte*>(queries) + begin * shape_.head_dim * DTypeBytes(dtype_);
}

WindowVotesArgs DeviceScorer::VotesOf(const DeviceLayerView& layer) const {
  const size_t window = plan_.window_end - plan_.window_begin;
  return {.q = layer.window_queries,
          .keys = layer.keys,
          .lse = layer.window_lse,
          .votes = votes_.as<float>(),
          .dtype = dtype_,
          .num_query_heads = shape_.num_query_heads,
          .num_kv_heads = shape_.num_kv_heads,
          .window = window,
          .num_keys = plan_.prompt_tokens,
          .head_dim = shape_.head_dim,
          .q_head_stride = window * shape_.head_dim,
          .q_row_stride = shape_.head_dim,
          .lse_head_stride = window,
          .key_head_stride = layer.head_stride,
          .votes_row_stride = plan_.prompt_tokens,
          .first_position = plan_.window_begin};
}

absl::Status DeviceScorer::Vote(WindowVotesArgs votes) {
  const WindowVotesArgs all = votes;
  return InPasses(all.window, [&](size_t begin, size_t count) {
    votes.q = QueriesFrom(all.q, begin);
    votes.lse = all.lse + begin;
    votes.window = count;
    votes.first_position = all.first_position + begin;
    votes.accumulate = begin > 0;
    return WindowVotes(stream_, votes);
  });
}

absl::Status DeviceScorer::VoteOverPrefix(const DeviceLayerView& layer) {
  WindowVotesArgs votes = VotesOf(layer);
  votes.lse = prefix_lse_.as<float>();
  votes.num_keys = plan_.window_begin;
  RETURN_IF_ERROR(InPasses(votes.window, [&](size_t begin, size_t count) {
    return WindowLogSumExp(stream_, {.q = QueriesFrom(votes.q, begin),
                                     .keys = votes.keys,
                                     .lse = prefix_lse_.as<float>() + begin,
                                     .workspace = workspace_.data(),
                                     .dtype = dtype_,
                                     .num_query_heads = votes.num_query_heads,
                                     .num_kv_heads = votes.num_kv_heads,
                                     .window = count,
                                     .num_keys = votes.num_keys,
                                     .head_dim = votes.head_dim,
                                     .q_head_stride = votes.q_head_stride,
                                     .lse_head_stride = votes.lse_head_stride,
                                     .key_head_stride = votes.key_head_stride,
                                     .first_position = votes.first_position + begin});
  }));
  return Vote(votes);
}

absl::Status DeviceScorer::ScoreByWindow(const DeviceLayerView& layer, float* scores,
                                         size_t row_stride) {
  if (VotesOverPrefix(options_)) {
    RETURN_IF_ERROR(VoteOverPrefix(layer));
  } else {
    RETURN_IF_ERROR(Vote(VotesOf(layer)));
  }
  const size_t window = plan_.window_end - plan_.window_begin;
  const bool mean = options_.window_reduce == WindowReduce::kMean;
  return PoolScores(stream_,
                    {.votes = votes_.as<float>(),
                     .scores = scores,
                     .num_query_heads = shape_.num_query_heads,
                     .num_kv_heads = plan_.num_heads,
                     .num_tokens = plan_.window_begin,
                     .votes_row_stride = plan_.prompt_tokens,
                     .scores_row_stride = row_stride,
                     .pooling = options_.pool,
                     .kernel = options_.kernel,
                     .reduce = options_.group_reduce,
                     .reduce_before_pooling = options_.group_order == GroupOrder::kBeforePooling,
                     .vote_scale = mean ? 1.0f / static_cast<float>(window) : 1.0f});
}

absl::Status DeviceScorer::ScoreByLastQuery(const DeviceLayerView& layer, float* scores,
                                            size_t row_stride) {
  WindowVotesArgs votes = VotesOf(layer);
  const size_t before = votes.window - 1;
  votes.q = QueriesFrom(votes.q, before);
  votes.lse = layer.window_lse + before;
  votes.window = 1;
  votes.first_position += before;
  RETURN_IF_ERROR(WindowVotes(stream_, votes));
  return PoolScores(stream_, {.votes = votes_.as<float>(),
                              .scores = scores,
                              .num_query_heads = shape_.num_query_heads,
                              .num_kv_heads = 1,
                              .num_tokens = plan_.prompt_tokens,
                              .votes_row_stride = plan_.prompt_tokens,
                              .scores_row_stride = row_stride,
                              .copies = shape_.num_kv_heads});
}

absl::Status DeviceScorer::ScoreByColumnSums(const DeviceLayerView& layer, float* scores,
                                             size_t row_stride) {
  const size_t tokens = plan_.prompt_tokens, heads = plan_.num_heads;
  RETURN_IF_ERROR(PoolScores(stream_, {.votes = layer.column_sums,
                                       .scores = scores,
                                       .num_query_heads = shape_.num_query_heads,
                                       .num_kv_heads = heads,
                                       .num_tokens = tokens,
                                       .votes_row_stride = tokens,
                                       .scores_row_stride = row_stride,
                                       .reduce = options_.group_reduce}));
  if (!options_.normalised) return absl::OkStatus();
  return MeanOverQueries(stream_, {.scores = scores,
                                   .num_kv_heads = heads,
                                   .num_tokens = tokens,
                                   .scores_row_stride = row_stride});
}

absl::Status DeviceScorer::ScoreByKeyDirections(const DeviceLayerView& layer, float* scores,
                                                size_t row_stride) {
  return ScoreKeyDirections(stream_, {.keys = layer.keys,
                                      .scores = scores,
                                      .workspace = workspace_.data(),
                                      .dtype = dtype_,
                                      .num_kv_heads = shape_.num_kv_heads,
                                      .num_tokens = plan_.prompt_tokens,
                                      .head_dim = shape_.head_dim,
                                      .key_head_stride = layer.head_stride,
                                      .scores_row_stride = row_stride});
}

absl::Status DeviceScorer::ScoreByExpectation(const DeviceLayerView& layer, float* scores,
                                              size_t row_stride) {
  return ExpectedScores(stream_, {.keys = layer.keys,
                                  .values = layer.values,
                                  .mean = layer.query_mean,
                                  .covariance = layer.query_covariance,
                                  .logits = votes_.as<float>(),
                                  .scores = scores,
                                  .workspace = workspace_.data(),
                                  .dtype = dtype_,
                                  .num_query_heads = shape_.num_query_heads,
                                  .num_kv_heads = shape_.num_kv_heads,
                                  .num_tokens = plan_.prompt_tokens,
                                  .head_dim = shape_.head_dim,
                                  .head_stride = layer.head_stride,
                                  .scores_row_stride = row_stride,
                                  .first_token = Sinks(plan_)});
}

template <TokenScore kScore>
absl::Status DeviceScorer::ScoreByTokens(const DeviceLayerView& layer, float* scores,
                                         size_t row_stride) {
  return ScoreTokens(stream_, {.keys = layer.keys,
                               .scores = scores,
                               .score = kScore,
                               .dtype = dtype_,
                               .num_kv_heads = shape_.num_kv_heads,
                               .num_tokens = plan_.prompt_tokens,
                               .head_dim = shape_.head_dim,
                               .key_head_stride = layer.head_stride,
                               .scores_row_stride = row_stride,
                               .seed = RandomBits(options_.seed, layer.layer)});
}

absl::Status DeviceScorer::Score(const DeviceLayerView& layer, float* scores, size_t row_stride) {
  return (this->*score_)(layer, scores, row_stride);
}

absl::StatusOr<const float*> DeviceScorer::WindowAttention(const DeviceLayerView& layer) {
  // Where it has voted it is there.
  const bool voted = score_ == &DeviceScorer::ScoreByWindow && !VotesOverPrefix(options_);
  if (!voted) RETURN_IF_ERROR(Vote(VotesOf(layer)));
  return votes_.as<float>();
}

}  // namespace kvship::cuda
