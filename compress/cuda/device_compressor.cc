#include "compress/cuda/device_compressor.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "compress/middle.h"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/kept_mass.h"
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
  if (options.allocator != "uniform" && options.allocator != "pyramid") {
    return OnlyOnTheCpu("allocator", options.allocator, "uniform or pyramid");
  }
  if (options.selector != "tokens") return OnlyOnTheCpu("selector", options.selector, "tokens");
  return CheckRecentTokens(options, plan);
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
  return scorer_ != nullptr ? scorer_->needs() : LayerNeeds{};
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
    ASSIGN_OR_RETURN(scorer_, DeviceScorer::Create(options_, shape_, plan_, dtype_, stream_));
    ASSIGN_OR_RETURN(scores_, DeviceBuffer::Create(heads * scores_stride_ * sizeof(float)));
    ASSIGN_OR_RETURN(workspace_, DeviceBuffer::Create(TopPositionsWorkspaceBytes(heads, tokens)));
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

absl::Status DeviceCompressor::Choose(const DeviceLayerView& layer) {
  const size_t tokens = plan_.prompt_tokens;
  const HeadBudget& budget = plan_.budgets[layer.layer];
  RETURN_IF_ERROR(scorer_->Score(layer, scores_.as<float>(), scores_stride_));
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
  ASSIGN_OR_RETURN(const float* attention, scorer_->WindowAttention(layer));
  const Middle middle = MiddleOf(plan_, budget);
  return KeptMass(stream_, {.votes = attention,
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
