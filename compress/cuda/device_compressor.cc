#include "compress/cuda/device_compressor.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "base/random.h"
#include "base/status_macros.h"
#include "compress/middle.h"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/kept_mass.h"
#include "kernels/cuda/pool_scores.h"
#include "kernels/cuda/token_scores.h"
#include "kernels/cuda/top_positions.h"
#include "kernels/cuda/window_sums.h"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

// What WindowVotes and PoolScores take.
constexpr size_t kLongestWindow = 64;
constexpr size_t kWidestKernel = 127;

absl::Status Wanted(absl::string_view option, absl::string_view value, absl::string_view wanted) {
  return absl::UnimplementedError(absl::StrCat("compression.", option, " is ", value, "; wanted ",
                                               wanted, ", which is what runs on a GPU so far"));
}

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

absl::Status CheckWindow(const CompressionOptions& options, const KvPlan& plan) {
  const size_t window = plan.window_end - plan.window_begin;
  if (plan.window_end != plan.prompt_tokens) {
    return Wanted("observe_end", absl::StrCat(plan.window_end), "the prompt's end");
  }
  if (window > kLongestWindow) {
    return Wanted("window", absl::StrCat(window), absl::StrCat("at most ", kLongestWindow));
  }
  if (options.kernel > kWidestKernel) {
    return Wanted("kernel", absl::StrCat(options.kernel), absl::StrCat("at most ", kWidestKernel));
  }
  // Within its own window snapkv has no scores.
  const size_t least = options.scorer == "snapkv" ? window : 0;
  for (const HeadBudget& budget : plan.budgets) {
    if (budget.recent_tokens < least || budget.recent_tokens >= plan.prompt_tokens) {
      return Wanted("recent_tokens", absl::StrCat(budget.recent_tokens),
                    absl::StrCat("at least ", least, ", and less than the prompt"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DeviceCompressor::Check(const CompressionOptions& options, const KvShape& shape,
                                     const KvPlan& plan, DType dtype) {
  if (plan.format != PageFormatOf(dtype) && !IsQuantized(plan.format)) {
    return Wanted("encoder", PageFormatName(plan.format),
                  absl::StrCat(PageFormatName(PageFormatOf(dtype)), ", fp8, int8 or int4"));
  }
  if (plan.tail_tokens > 0 && plan.window_format != PageFormatOf(dtype)) {
    return Wanted("window_encoder", PageFormatName(plan.window_format),
                  PageFormatName(PageFormatOf(dtype)));
  }
  if (plan.num_heads != shape.num_kv_heads) {
    return Wanted("group_reduce", "none", "a choice per KV head");
  }
  if (plan.keeps_whole) return absl::OkStatus();
  if (options.scorer != "snapkv" && !TokenScorerOf(options.scorer)) {
    return Wanted("scorer", options.scorer, "snapkv, knorm, streaming_llm, random or keep_all");
  }
  if (options.allocator != "uniform" && options.allocator != "pyramid") {
    return Wanted("allocator", options.allocator, "uniform or pyramid");
  }
  if (options.selector != "tokens") return Wanted("selector", options.selector, "tokens");
  return CheckWindow(options, plan);
}

absl::StatusOr<std::unique_ptr<DeviceCompressor>> DeviceCompressor::Create(
    const CompressionOptions& options, const KvShape& shape, const KvPlan& plan, DType dtype,
    cudaStream_t stream) {
  RETURN_IF_ERROR(Check(options, shape, plan, dtype));
  std::unique_ptr<DeviceCompressor> compressor(
      new DeviceCompressor(options, shape, plan, dtype, stream));
  RETURN_IF_ERROR(compressor->Allocate());
  return compressor;
}

LayerNeeds DeviceCompressor::needs() const {
  if (plan_.keeps_whole) return {};
  return {.window_begin = plan_.window_begin, .window_end = plan_.window_end};
}

absl::Status DeviceCompressor::Allocate() {
  const size_t heads = shape_.num_kv_heads, tokens = plan_.prompt_tokens;
  size_t most_kept = plan_.keeps_whole ? tokens : 0;
  for (const HeadBudget& budget : plan_.budgets) most_kept = std::max(most_kept, budget.tokens);
  SetKeptTokens(most_kept);
  ASSIGN_OR_RETURN(positions_, DeviceBuffer::Create(heads * kept_tokens_ * sizeof(int32_t)));
  ASSIGN_OR_RETURN(pages_, DeviceBuffer::Create(heads * PagesFor(kept_tokens_) *
                                                PageBytes(plan_.format, plan_.head_dim)));
  ASSIGN_OR_RETURN(tails_, DeviceBuffer::Create(heads * layout_.tail_bytes));
  ASSIGN_OR_RETURN(masses_, DeviceBuffer::Create(2 * heads * sizeof(float)));
  if (!plan_.keeps_whole) {
    ASSIGN_OR_RETURN(votes_, DeviceBuffer::Create(shape_.num_query_heads * tokens * sizeof(float)));
    ASSIGN_OR_RETURN(scores_, DeviceBuffer::Create(heads * scores_stride_ * sizeof(float)));
    ASSIGN_OR_RETURN(workspace_, DeviceBuffer::Create(TopPositionsWorkspaceBytes(heads, tokens)));
    if (options_.softmax == SoftmaxOver::kPrefix) {
      const size_t window = plan_.window_end - plan_.window_begin;
      ASSIGN_OR_RETURN(prefix_lse_,
                       DeviceBuffer::Create(shape_.num_query_heads * window * sizeof(float)));
      ASSIGN_OR_RETURN(sums_, DeviceBuffer::Create(WindowLogSumExpWorkspaceBytes(
                                  shape_.num_query_heads, window, plan_.window_begin)));
    }
    return CudaStatus(cudaMemsetAsync(workspace_.data(), 0, workspace_.num_bytes(), stream_),
                      "workspace of the choice");
  }
  std::vector<int32_t> all(tokens);
  std::iota(all.begin(), all.end(), 0);
  for (size_t h = 0; h < heads; ++h) {
    RETURN_IF_ERROR(CudaStatus(cudaMemcpy(positions_.as<int32_t>() + h * tokens, all.data(),
                                          tokens * sizeof(int32_t), cudaMemcpyHostToDevice),
                               "positions"));
  }
  const std::vector<float> whole(2 * heads, 1.0f);
  return CudaStatus(cudaMemcpy(masses_.data(), whole.data(), whole.size() * sizeof(float),
                               cudaMemcpyHostToDevice),
                    "masses");
}

void DeviceCompressor::SetKeptTokens(size_t kept_tokens) {
  kept_tokens_ = kept_tokens;
  const std::vector<uint32_t> kept(shape_.num_kv_heads, static_cast<uint32_t>(kept_tokens));
  layout_ = LayoutOf(plan_, kept);
}

absl::Status DeviceCompressor::Compress(const DeviceLayerView& layer) {
  if (!plan_.keeps_whole) {
    SetKeptTokens(plan_.budgets[layer.layer].tokens);
    RETURN_IF_ERROR(Choose(layer));
  }
  return Gather(layer);
}

absl::Status DeviceCompressor::Vote(const DeviceLayerView& layer, const float* lse,
                                    size_t num_keys) {
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

absl::Status DeviceCompressor::VoteOverPrefix(const DeviceLayerView& layer) {
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

absl::Status DeviceCompressor::PoolVotes() {
  const size_t window = plan_.window_end - plan_.window_begin;
  const bool mean = options_.window_reduce == WindowReduce::kMean;
  return PoolScores(stream_,
                    {.votes = votes_.as<float>(),
                     .scores = scores_.as<float>(),
                     .num_query_heads = shape_.num_query_heads,
                     .num_kv_heads = shape_.num_kv_heads,
                     .num_tokens = plan_.window_begin,
                     .votes_row_stride = plan_.prompt_tokens,
                     .scores_row_stride = scores_stride_,
                     .pooling = options_.pool,
                     .kernel = options_.kernel,
                     .reduce = options_.group_reduce,
                     .reduce_before_pooling = options_.group_order == GroupOrder::kBeforePooling,
                     .vote_scale = mean ? 1.0f / static_cast<float>(window) : 1.0f});
}

absl::Status DeviceCompressor::Score(const DeviceLayerView& layer) {
  if (const auto score = TokenScorerOf(options_.scorer)) {
    return ScoreTokens(stream_, {.keys = layer.keys,
                                 .scores = scores_.as<float>(),
                                 .score = *score,
                                 .dtype = dtype_,
                                 .num_kv_heads = shape_.num_kv_heads,
                                 .num_tokens = plan_.prompt_tokens,
                                 .head_dim = shape_.head_dim,
                                 .key_head_stride = layer.head_stride,
                                 .scores_row_stride = scores_stride_,
                                 .seed = RandomBits(options_.seed, layer.layer)});
  }
  if (options_.softmax == SoftmaxOver::kPrefix) {
    RETURN_IF_ERROR(VoteOverPrefix(layer));
  } else {
    RETURN_IF_ERROR(Vote(layer, layer.window_lse, plan_.prompt_tokens));
  }
  return PoolVotes();
}

absl::Status DeviceCompressor::Choose(const DeviceLayerView& layer) {
  const size_t tokens = plan_.prompt_tokens;
  const HeadBudget& budget = plan_.budgets[layer.layer];
  RETURN_IF_ERROR(Score(layer));
  if (budget.sinks > 0) {
    RETURN_IF_ERROR(MarkSinks(stream_, {.scores = scores_.as<float>(),
                                        .num_kv_heads = shape_.num_kv_heads,
                                        .num_sinks = budget.sinks,
                                        .scores_row_stride = scores_stride_}));
  }
  RETURN_IF_ERROR(TopPositions(stream_, {.scores = scores_.as<float>(),
                                         .positions = positions_.as<int32_t>(),
                                         .workspace = workspace_.data(),
                                         .num_rows = shape_.num_kv_heads,
                                         .num_scores = tokens - budget.recent_tokens,
                                         .scores_row_stride = scores_stride_,
                                         .k = kept_tokens_ - budget.recent_tokens,
                                         .num_appended = budget.recent_tokens,
                                         .positions_row_stride = kept_tokens_}));
  // Masses are shares of the window's attention, which is what voted or not.
  if (options_.scorer != "snapkv" || options_.softmax == SoftmaxOver::kPrefix) {
    RETURN_IF_ERROR(Vote(layer, layer.window_lse, tokens));
  }
  const Middle middle = MiddleOf(plan_, budget);
  return KeptMass(stream_, {.votes = votes_.as<float>(),
                            .positions = positions_.as<int32_t>(),
                            .retained_mass = masses_.as<float>(),
                            .chosen_mass = masses_.as<float>() + shape_.num_kv_heads,
                            .num_kv_heads = shape_.num_kv_heads,
                            .group = shape_.num_query_heads / shape_.num_kv_heads,
                            .window = plan_.window_end - plan_.window_begin,
                            .num_tokens = tokens,
                            .num_kept = kept_tokens_,
                            .middle_begin = middle.begin,
                            .middle_end = middle.end,
                            .votes_row_stride = tokens,
                            .positions_row_stride = kept_tokens_});
}

absl::Status DeviceCompressor::Gather(const DeviceLayerView& layer) {
  const size_t prefix_tokens = kept_tokens_ - plan_.tail_tokens;
  GatherPagesArgs args = {.keys = layer.keys,
                          .values = layer.values,
                          .positions = positions_.as<int32_t>(),
                          .pages = pages_.data(),
                          .dtype = dtype_,
                          .format = plan_.format,
                          .num_kv_heads = shape_.num_kv_heads,
                          .head_dim = shape_.head_dim,
                          .head_stride = layer.head_stride,
                          .num_tokens = prefix_tokens,
                          .positions_row_stride = kept_tokens_,
                          .pages_per_head = PagesFor(prefix_tokens)};
  if (prefix_tokens > 0) RETURN_IF_ERROR(GatherPages(stream_, args));
  if (plan_.tail_tokens == 0) return absl::OkStatus();
  // Every head keeps the prompt's last tokens.
  args.positions += prefix_tokens;
  args.pages = tails_.data();
  args.format = plan_.window_format;
  args.num_tokens = plan_.tail_tokens;
  args.pages_per_head = PagesFor(plan_.tail_tokens);
  return GatherPages(stream_, args);
}

absl::Status DeviceCompressor::CopyToHost(std::byte* bytes, float* masses) const {
  const auto copy_rows = [this](std::byte* to, size_t to_stride, const DeviceBuffer& from,
                                size_t from_stride, size_t row_bytes, const char* what) {
    if (row_bytes == 0) return absl::OkStatus();
    return CudaStatus(cudaMemcpy2DAsync(to, to_stride, from.data(), from_stride, row_bytes,
                                        shape_.num_kv_heads, cudaMemcpyDeviceToHost, stream_),
                      what);
  };
  const size_t head_bytes = layout_.tails_offset / shape_.num_kv_heads;  // every head has as many
  const HeadBytes& first = layout_.heads.front();
  const size_t page_bytes = head_bytes - first.pages_offset;
  RETURN_IF_ERROR(copy_rows(bytes, head_bytes, positions_, kept_tokens_ * sizeof(int32_t),
                            first.num_positions * sizeof(int32_t), "copy of positions"));
  RETURN_IF_ERROR(copy_rows(bytes + first.pages_offset, head_bytes, pages_, page_bytes, page_bytes,
                            "copy of pages"));
  RETURN_IF_ERROR(copy_rows(bytes + layout_.tails_offset, layout_.tail_bytes, tails_,
                            layout_.tail_bytes, layout_.tail_bytes, "copy of tails"));
  return CudaStatus(cudaMemcpyAsync(masses, masses_.data(), 2 * shape_.num_kv_heads * sizeof(float),
                                    cudaMemcpyDeviceToHost, stream_),
                    "copy of masses");
}

}  // namespace kvship::cuda
