#include "compress/cuda/device_scorer.h"

#include <optional>
#include <utility>

#include "base/random.h"
#include "base/status_macros.h"
#include "kernels/cuda/pool_scores.h"
#include "kernels/cuda/token_scores.h"
#include "kernels/cuda/window_sums.h"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

// What WindowVotes and PoolScores take.
constexpr size_t kLongestWindow = 64;
constexpr size_t kWidestKernel = 127;

// The scorers that ask no query.
constexpr std::pair<absl::string_view, TokenScore> kTokenScorers[] = {
    {"knorm", TokenScore::kSmallNorm},
    {"streaming_llm", TokenScore::kLate},
    {"random", TokenScore::kRandom}};

std::optional<TokenScore> TokenScorerOf(absl::string_view name) {
  for (const auto& [own, score] : kTokenScorers) {
    if (own == name) return score;
  }
  return std::nullopt;
}

}  // namespace

absl::Status OnlyOnTheCpu(absl::string_view option, absl::string_view value,
                          absl::string_view wanted) {
  return absl::UnimplementedError(absl::StrCat("compression.", option, " is ", value, "; wanted ",
                                               wanted, ", which is what runs on a GPU so far"));
}

absl::Status DeviceScorer::Check(const CompressionOptions& options, const KvPlan& plan) {
  if (options.scorer != "snapkv" && !TokenScorerOf(options.scorer)) {
    return OnlyOnTheCpu("scorer", options.scorer,
                        "snapkv, knorm, streaming_llm, random or keep_all");
  }
  const size_t window = plan.window_end - plan.window_begin;
  if (plan.window_end != plan.prompt_tokens) {
    return OnlyOnTheCpu("observe_end", absl::StrCat(plan.window_end), "the prompt's end");
  }
  if (window > kLongestWindow) {
    return OnlyOnTheCpu("window", absl::StrCat(window), absl::StrCat("at most ", kLongestWindow));
  }
  if (options.kernel > kWidestKernel) {
    return OnlyOnTheCpu("kernel", absl::StrCat(options.kernel),
                        absl::StrCat("at most ", kWidestKernel));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceScorer>> DeviceScorer::Create(
    const CompressionOptions& options, const KvShape& shape, const KvPlan& plan, DType dtype,
    cudaStream_t stream) {
  RETURN_IF_ERROR(Check(options, plan));
  std::unique_ptr<DeviceScorer> scorer(new DeviceScorer(options, shape, plan, dtype, stream));
  RETURN_IF_ERROR(scorer->Allocate());
  return scorer;
}

absl::Status DeviceScorer::Allocate() {
  const size_t query_heads = shape_.num_query_heads;
  ASSIGN_OR_RETURN(votes_, DeviceBuffer::Create(query_heads * plan_.prompt_tokens * sizeof(float)));
  if (options_.softmax != SoftmaxOver::kPrefix) return absl::OkStatus();
  const size_t window = plan_.window_end - plan_.window_begin;
  ASSIGN_OR_RETURN(prefix_lse_, DeviceBuffer::Create(query_heads * window * sizeof(float)));
  ASSIGN_OR_RETURN(sums_, DeviceBuffer::Create(WindowLogSumExpWorkspaceBytes(query_heads, window,
                                                                             plan_.window_begin)));
  return absl::OkStatus();
}

LayerNeeds DeviceScorer::needs() const {
  return {.window_begin = plan_.window_begin, .window_end = plan_.window_end};
}

absl::Status DeviceScorer::Vote(const DeviceLayerView& layer, const float* lse, size_t num_keys) {
  return WindowVotes(stream_, {.q = layer.window_queries,
                               .keys = layer.keys,
                               .lse = lse,
                               .votes = votes_.as<float>(),
                               .dtype = dtype_,
                               .num_query_heads = shape_.num_query_heads,
                               .num_kv_heads = shape_.num_kv_heads,
                               .window = plan_.window_end - plan_.window_begin,
                               .num_keys = num_keys,
                               .head_dim = shape_.head_dim,
                               .key_head_stride = layer.head_stride,
                               .votes_row_stride = plan_.prompt_tokens,
                               .first_position = plan_.window_begin});
}

absl::Status DeviceScorer::VoteOverPrefix(const DeviceLayerView& layer) {
  RETURN_IF_ERROR(WindowLogSumExp(stream_, {.q = layer.window_queries,
                                            .keys = layer.keys,
                                            .lse = prefix_lse_.as<float>(),
                                            .workspace = sums_.data(),
                                            .dtype = dtype_,
                                            .num_query_heads = shape_.num_query_heads,
                                            .num_kv_heads = shape_.num_kv_heads,
                                            .window = plan_.window_end - plan_.window_begin,
                                            .num_keys = plan_.window_begin,
                                            .head_dim = shape_.head_dim,
                                            .key_head_stride = layer.head_stride,
                                            .first_position = plan_.window_begin}));
  return Vote(layer, prefix_lse_.as<float>(), plan_.window_begin);
}

absl::Status DeviceScorer::PoolVotes(float* scores, size_t row_stride) {
  const size_t window = plan_.window_end - plan_.window_begin;
  const bool mean = options_.window_reduce == WindowReduce::kMean;
  return PoolScores(stream_,
                    {.votes = votes_.as<float>(),
                     .scores = scores,
                     .num_query_heads = shape_.num_query_heads,
                     .num_kv_heads = shape_.num_kv_heads,
                     .num_tokens = plan_.window_begin,
                     .votes_row_stride = plan_.prompt_tokens,
                     .scores_row_stride = row_stride,
                     .pooling = options_.pool,
                     .kernel = options_.kernel,
                     .reduce = options_.group_reduce,
                     .reduce_before_pooling = options_.group_order == GroupOrder::kBeforePooling,
                     .vote_scale = mean ? 1.0f / static_cast<float>(window) : 1.0f});
}

absl::Status DeviceScorer::Score(const DeviceLayerView& layer, float* scores, size_t row_stride) {
  if (const auto score = TokenScorerOf(options_.scorer)) {
    return ScoreTokens(stream_, {.keys = layer.keys,
                                 .scores = scores,
                                 .score = *score,
                                 .dtype = dtype_,
                                 .num_kv_heads = shape_.num_kv_heads,
                                 .num_tokens = plan_.prompt_tokens,
                                 .head_dim = shape_.head_dim,
                                 .key_head_stride = layer.head_stride,
                                 .scores_row_stride = row_stride,
                                 .seed = RandomBits(options_.seed, layer.layer)});
  }
  if (VotesByAttention()) {
    RETURN_IF_ERROR(Vote(layer, layer.window_lse, plan_.prompt_tokens));
  } else {
    RETURN_IF_ERROR(VoteOverPrefix(layer));
  }
  return PoolVotes(scores, row_stride);
}

absl::StatusOr<const float*> DeviceScorer::WindowAttention(const DeviceLayerView& layer) {
  // Where it has voted it is there.
  if (!VotesByAttention()) RETURN_IF_ERROR(Vote(layer, layer.window_lse, plan_.prompt_tokens));
  return votes_.as<float>();
}

}  // namespace kvship::cuda
