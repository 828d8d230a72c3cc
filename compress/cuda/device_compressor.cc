#include "compress/cuda/device_compressor.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "compress/middle.h"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/kept_mass.h"
#include "kernels/cuda/mass_tokens.h"
#include "kernels/cuda/share_tokens.h"
#include "kernels/cuda/token_scores.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

absl::Status CheckRecentTokens(const CompressionOptions& options, const KvPlan& plan) {
  // Within its own window snapkv has no scores.
  const size_t least = options.scorer == "snapkv" ? plan.window_end - plan.window_begin : 0;
  for (const HeadBudget& budget : plan.budgets) {
    if (budget.recent_tokens < least || budget.recent_tokens >= plan.prompt_tokens) {
      return OnlyOnTheCpu("recent_tokens", absl::StrCat(budget.recent_tokens),
                          absl::StrCat("at least ", least, ", and less than the prompt"));
    }
  }
  return absl::OkStatus();
}

absl::Status Clear(const DeviceBuffer& buffer, cudaStream_t stream) {
  return CudaStatus(cudaMemsetAsync(buffer.data(), 0, buffer.num_bytes(), stream), "workspace");
}

}  // namespace

absl::Status DeviceCompressor::Check(const CompressionOptions& options, const KvShape& shape,
                                     const KvPlan& plan, DType dtype) {
  if (plan.format != PageFormatOf(dtype) && !IsQuantized(plan.format)) {
    return OnlyOnTheCpu("encoder", PageFormatName(plan.format),
                        absl::StrCat(PageFormatName(PageFormatOf(dtype)), ", fp8, int8 or int4"));
  }
  if (plan.tail_tokens > 0 && plan.window_format != PageFormatOf(dtype)) {
    return OnlyOnTheCpu("window_encoder", PageFormatName(plan.window_format),
                        PageFormatName(PageFormatOf(dtype)));
  }
  if (plan.num_heads != shape.num_kv_heads) {
    return OnlyOnTheCpu("group_reduce", "none", "a choice per KV head");
  }
  if (plan.keeps_whole) return absl::OkStatus();
  RETURN_IF_ERROR(DeviceScorer::Check(options, plan));
  if (options.selector != "tokens") return OnlyOnTheCpu("selector", options.selector, "tokens");
  return CheckRecentTokens(options, plan);
}

absl::StatusOr<std::unique_ptr<DeviceCompressor>> DeviceCompressor::Create(
    const CompressionOptions& options, const KvShape& shape, const KvPlan& plan, DType dtype,
    cudaStream_t stream) {
  RETURN_IF_ERROR(Check(options, shape, plan, dtype));
  std::unique_ptr<DeviceCompressor> compressor(
      new DeviceCompressor(options, shape, plan, dtype, stream));
  RETURN_IF_ERROR(compressor->TakeMemory());
  return compressor;
}

LayerNeeds DeviceCompressor::needs() const {
  return scorer_ != nullptr ? scorer_->needs() : LayerNeeds{};
}

absl::Status DeviceCompressor::TakeMemory() {
  ASSIGN_OR_RETURN(compact_, CompactDeviceLayer::Create(plan_));
  if (plan_.keeps_whole) return absl::OkStatus();
  const size_t heads = shape_.num_kv_heads;
  ASSIGN_OR_RETURN(scorer_, DeviceScorer::Create(options_, shape_, plan_, dtype_, stream_));
  ASSIGN_OR_RETURN(scores_, DeviceBuffer::Create(heads * scores_stride_ * sizeof(float)));
  ASSIGN_OR_RETURN(positions_workspace_,
                   DeviceBuffer::Create(TopPositionsWorkspaceBytes(heads, plan_.prompt_tokens)));
  RETURN_IF_ERROR(Clear(positions_workspace_, stream_));
  if (!plan_.bounded) return absl::OkStatus();
  ASSIGN_OR_RETURN(offsets_workspace_, DeviceBuffer::Create(options_.allocator == "ada"
                                                                ? ShareTokensWorkspaceBytes(heads)
                                                                : MassTokensWorkspaceBytes(heads)));
  return Clear(offsets_workspace_, stream_);
}

absl::Status DeviceCompressor::Compress(const DeviceLayerView& layer) {
  compact_->Begin(layer.layer);
  if (!plan_.keeps_whole) RETURN_IF_ERROR(Choose(layer));
  return Gather(layer);
}

absl::Status DeviceCompressor::AllocateTokens(const HeadBudget& budget, const float* attention) {
  if (!plan_.bounded) return absl::OkStatus();
  const size_t heads = shape_.num_kv_heads, tokens = plan_.prompt_tokens;
  const size_t num_scores = tokens - budget.recent_tokens;
  const size_t num_appended = budget.recent_tokens - plan_.tail_tokens;
  if (options_.allocator == "ada") {
    const size_t chosen = budget.tokens - budget.sinks - budget.recent_tokens;
    const auto sure = static_cast<size_t>(options_.alpha * static_cast<double>(chosen));
    return ShareTokens(stream_, {.scores = scores_.as<float>(),
                                 .offsets = compact_->offsets(),
                                 .workspace = offsets_workspace_.data(),
                                 .num_rows = heads,
                                 .num_scores = num_scores,
                                 .scores_row_stride = scores_stride_,
                                 .num_sure = budget.sinks + sure,
                                 .num_shared = heads * (chosen - sure),
                                 .num_appended = num_appended});
  }
  const size_t most = budget.tokens - budget.recent_tokens;
  const size_t least = std::max(options_.mass_min_tokens, budget.recent_tokens);
  return MassTokens(stream_, {.scores = scores_.as<float>(),
                              .votes = attention,
                              .offsets = compact_->offsets(),
                              .workspace = offsets_workspace_.data(),
                              .num_kv_heads = heads,
                              .group = shape_.num_query_heads / heads,
                              .window = plan_.window_end - plan_.window_begin,
                              .num_tokens = tokens,
                              .num_scores = num_scores,
                              .scores_row_stride = scores_stride_,
                              .votes_row_stride = tokens,
                              .least = std::clamp(least - budget.recent_tokens, budget.sinks, most),
                              .most = most,
                              .num_appended = num_appended,
                              .target_share = options_.mass_target});
}

absl::Status DeviceCompressor::Choose(const DeviceLayerView& layer) {
  const size_t heads = shape_.num_kv_heads, tokens = plan_.prompt_tokens;
  const HeadBudget& budget = plan_.budgets[layer.layer];
  RETURN_IF_ERROR(scorer_->Score(layer, scores_.as<float>(), scores_stride_));
  if (budget.sinks > 0) {
    RETURN_IF_ERROR(MarkSinks(stream_, {.scores = scores_.as<float>(),
                                        .num_kv_heads = heads,
                                        .num_sinks = budget.sinks,
                                        .scores_row_stride = scores_stride_}));
  }
  ASSIGN_OR_RETURN(const float* attention, scorer_->WindowAttention(layer));
  RETURN_IF_ERROR(AllocateTokens(budget, attention));
  RETURN_IF_ERROR(
      TopPositions(stream_, {.scores = scores_.as<float>(),
                             .offsets = compact_->offsets(),
                             .positions = compact_->positions(),
                             .workspace = positions_workspace_.data(),
                             .num_rows = heads,
                             .num_scores = tokens - budget.recent_tokens,
                             .scores_row_stride = scores_stride_,
                             .num_appended = budget.recent_tokens - plan_.tail_tokens}));
  const Middle middle = MiddleOf(plan_, budget);
  return KeptMass(stream_, {.votes = attention,
                            .positions = compact_->positions(),
                            .offsets = compact_->offsets(),
                            .retained_mass = compact_->masses(),
                            .chosen_mass = compact_->masses() + heads,
                            .num_kv_heads = heads,
                            .group = shape_.num_query_heads / heads,
                            .window = plan_.window_end - plan_.window_begin,
                            .num_tokens = tokens,
                            .num_last = plan_.tail_tokens,
                            .middle_begin = middle.begin,
                            .middle_end = middle.end,
                            .votes_row_stride = tokens});
}

absl::Status DeviceCompressor::Gather(const DeviceLayerView& layer) {
  GatherPagesArgs args = {.keys = layer.keys,
                          .values = layer.values,
                          .positions = compact_->positions(),
                          .offsets = compact_->offsets(),
                          .pages = compact_->pages(),
                          .dtype = dtype_,
                          .format = plan_.format,
                          .num_kv_heads = shape_.num_kv_heads,
                          .head_dim = shape_.head_dim,
                          .head_stride = layer.head_stride,
                          .most_pages = compact_->most_pages()};
  if (args.most_pages > 0) RETURN_IF_ERROR(GatherPages(stream_, args));
  if (plan_.tail_tokens == 0) return absl::OkStatus();
  args.positions = compact_->tail_positions();
  args.offsets = compact_->tail_offsets();
  args.pages = compact_->tails();
  args.format = plan_.window_format;
  args.most_pages = plan_.layer_tail_pages();
  return GatherPages(stream_, args);
}

}  // namespace kvship::cuda
