#include "compress/cuda/device_compressor.h"

#include <algorithm>
#include <limits>

#include "base/status_macros.h"
#include "compress/middle.h"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/kept_mass.h"
#include "kernels/cuda/token_scores.h"

namespace kvship::cuda {

absl::Status DeviceCompressor::Check(const CompressionOptions& options, const KvPlan& plan) {
  if (plan.keeps_whole) return absl::OkStatus();
  for (const HeadBudget& budget : plan.budgets) {
    if (budget.recent_tokens < plan.prompt_tokens) continue;
    return OnlyOnTheCpu("recent_tokens", absl::StrCat(budget.recent_tokens),
                        "less than the prompt");
  }
  const size_t window = plan.window_end - plan.window_begin;
  if (window > kLongestWindow) {
    return OnlyOnTheCpu("window", absl::StrCat(window), absl::StrCat("at most ", kLongestWindow));
  }
  return DeviceScorer::Check(options);
}

absl::StatusOr<std::unique_ptr<DeviceCompressor>> DeviceCompressor::Create(
    const CompressionOptions& options, const KvShape& shape, const KvPlan& plan, DType dtype,
    cudaStream_t stream) {
  RETURN_IF_ERROR(Check(options, plan));
  std::unique_ptr<DeviceCompressor> compressor(
      new DeviceCompressor(options, shape, plan, dtype, stream));
  RETURN_IF_ERROR(compressor->TakeMemory());
  return compressor;
}

size_t DeviceCompressor::BytesFor(const CompressionOptions& options, const KvShape& shape,
                                  const KvPlan& plan) {
  const size_t compact_bytes = CompactDeviceLayer::BytesFor(plan);
  if (plan.keeps_whole) return compact_bytes;
  const bool by_chunks = options.selector == "chunks";
  return compact_bytes + DeviceScorer::BytesFor(options, shape, plan) +
         plan.num_heads * ScoresStride(plan) * sizeof(float) +
         (by_chunks ? DeviceChunks::BytesFor(options, plan)
                    : DeviceTokens::BytesFor(options, plan));
}

absl::Status DeviceCompressor::TakeMemory() {
  ASSIGN_OR_RETURN(compact_, CompactDeviceLayer::Create(plan_, stream_));
  if (plan_.keeps_whole) return absl::OkStatus();
  ASSIGN_OR_RETURN(scorer_, DeviceScorer::Create(options_, shape_, plan_, dtype_, stream_));
  ASSIGN_OR_RETURN(scores_, DeviceBuffer::Create(plan_.num_heads * scores_stride_ * sizeof(float)));
  if (options_.selector == "chunks") {
    ASSIGN_OR_RETURN(chunks_, DeviceChunks::Create(options_, plan_, stream_));
  } else {
    ASSIGN_OR_RETURN(tokens_, DeviceTokens::Create(options_, shape_, plan_, stream_));
    RETURN_IF_ERROR(FillUnscored());
  }
  return absl::OkStatus();
}

absl::Status DeviceCompressor::FillUnscored() {
  const size_t num_scored = NumScored(options_, plan_);
  size_t num_asked = 0;  // of the tokens that are not always kept
  for (const HeadBudget& budget : plan_.budgets) {
    num_asked = std::max(num_asked, plan_.prompt_tokens - budget.recent_tokens);
  }
  if (num_asked <= num_scored) return absl::OkStatus();
  return FillScores(stream_, {.scores = scores_.as<float>(),
                              .num_heads = plan_.num_heads,
                              .begin = num_scored,
                              .end = num_asked,
                              .scores_row_stride = scores_stride_,
                              .score = -std::numeric_limits<float>::infinity()});
}

absl::Status DeviceCompressor::Compress(const DeviceLayerView& layer) {
  compact_->Begin(layer.layer);
  if (!plan_.keeps_whole) RETURN_IF_ERROR(Choose(layer));
  return Gather(layer);
}

absl::Status DeviceCompressor::Choose(const DeviceLayerView& layer) {
  const size_t heads = plan_.num_heads, tokens = plan_.prompt_tokens;
  auto* const scores = scores_.as<float>();
  RETURN_IF_ERROR(scorer_->Score(layer, scores, scores_stride_));
  ASSIGN_OR_RETURN(const float* attention, scorer_->WindowAttention(layer));
  if (chunks_) {
    RETURN_IF_ERROR(chunks_->Select(layer.layer, scores, NumScored(options_, plan_), scores_stride_,
                                    *compact_));
  } else {
    RETURN_IF_ERROR(tokens_->Select(layer.layer, scores, scores_stride_, attention, *compact_));
  }
  const Middle middle = MiddleOf(plan_);
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
                          .sets_per_head = plan_.num_heads / shape_.num_kv_heads,
                          .head_dim = shape_.head_dim,
                          .head_stride = layer.head_stride,
                          .most_pages = compact_->most_pages()};
  if (args.most_pages > 0) RETURN_IF_ERROR(GatherPages(stream_, args));
  if (plan_.tail_tokens == 0) return absl::OkStatus();
  args.sets_per_head = 1;
  args.positions = compact_->tail_positions();
  args.offsets = compact_->tail_offsets();
  args.pages = compact_->tails();
  args.format = plan_.window_format;
  args.most_pages = plan_.layer_tail_pages();
  return GatherPages(stream_, args);
}

}  // namespace kvship::cuda
