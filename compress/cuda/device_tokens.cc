#include "compress/cuda/device_tokens.h"

#include <algorithm>
#include <limits>

#include "base/status_macros.h"
#include "kernels/cuda/mass_tokens.h"
#include "kernels/cuda/share_tokens.h"
#include "kernels/cuda/token_scores.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {

BufferSizes<DeviceTokens> DeviceTokens::Sizes(const CompressionOptions& options,
                                              const KvPlan& plan) {
  const size_t heads = plan.num_heads;
  size_t offsets_bytes = 0;
  if (options.allocator == "ada") offsets_bytes = ShareTokensWorkspaceBytes(heads);
  if (options.allocator == "mass") offsets_bytes = MassTokensWorkspaceBytes(heads);
  return {
      {&DeviceTokens::positions_workspace_, TopPositionsWorkspaceBytes(heads, plan.prompt_tokens)},
      {&DeviceTokens::offsets_workspace_, offsets_bytes}};
}

absl::StatusOr<DeviceTokens> DeviceTokens::Create(const CompressionOptions& options,
                                                  const KvShape& shape, const KvPlan& plan,
                                                  cudaStream_t stream) {
  DeviceTokens tokens(options, shape, plan, stream);
  RETURN_IF_ERROR(CreateBuffers(Sizes(options, plan), tokens));
  for (const DeviceBuffer* workspace : {&tokens.positions_workspace_, &tokens.offsets_workspace_}) {
    if (workspace->num_bytes() == 0) continue;
    RETURN_IF_ERROR(
        CudaStatus(cudaMemsetAsync(workspace->data(), 0, workspace->num_bytes(), stream),
                   "workspace of a choice"));
  }
  return tokens;
}

absl::Status DeviceTokens::ShareByScores(const HeadBudget& budget, const float* scores,
                                         size_t row_stride, const CompactDeviceLayer& compact) {
  const size_t chosen = budget.tokens - budget.sinks - budget.recent_tokens;
  const auto sure = static_cast<size_t>(options_.alpha * static_cast<double>(chosen));
  return ShareTokens(stream_, {.scores = scores,
                               .offsets = compact.offsets(),
                               .workspace = offsets_workspace_.data(),
                               .num_rows = plan_.num_heads,
                               .num_scores = num_scores(budget),
                               .scores_row_stride = row_stride,
                               .num_sure = budget.sinks + sure,
                               .num_shared = plan_.num_heads * (chosen - sure),
                               .num_appended = num_appended(budget)});
}

absl::Status DeviceTokens::CountForMass(const HeadBudget& budget, const float* scores,
                                        size_t row_stride, const float* attention,
                                        const CompactDeviceLayer& compact) {
  const size_t most = budget.tokens - budget.recent_tokens;
  const size_t least = std::max(options_.mass_min_tokens, budget.recent_tokens);
  return MassTokens(stream_, {.scores = scores,
                              .votes = attention,
                              .offsets = compact.offsets(),
                              .workspace = offsets_workspace_.data(),
                              .num_kv_heads = plan_.num_heads,
                              .group = shape_.num_query_heads / plan_.num_heads,
                              .window = plan_.window_end - plan_.window_begin,
                              .num_tokens = plan_.prompt_tokens,
                              .num_scores = num_scores(budget),
                              .scores_row_stride = row_stride,
                              .votes_row_stride = plan_.prompt_tokens,
                              .least = std::clamp(least - budget.recent_tokens, budget.sinks, most),
                              .most = most,
                              .num_appended = num_appended(budget),
                              .target_share = options_.mass_target});
}

absl::Status DeviceTokens::Select(size_t layer, float* scores, size_t row_stride,
                                  const float* attention, const CompactDeviceLayer& compact) {
  const HeadBudget& budget = plan_.budgets[layer];
  if (budget.sinks > 0) {
    RETURN_IF_ERROR(FillScores(stream_, {.scores = scores,
                                         .num_heads = plan_.num_heads,
                                         .end = budget.sinks,
                                         .scores_row_stride = row_stride,
                                         .score = std::numeric_limits<float>::infinity()}));
  }
  if (options_.allocator == "ada") {
    RETURN_IF_ERROR(ShareByScores(budget, scores, row_stride, compact));
  } else if (options_.allocator == "mass") {
    RETURN_IF_ERROR(CountForMass(budget, scores, row_stride, attention, compact));
  }
  return TopPositions(stream_, {.scores = scores,
                                .offsets = compact.offsets(),
                                .positions = compact.positions(),
                                .workspace = positions_workspace_.data(),
                                .num_rows = plan_.num_heads,
                                .num_scores = num_scores(budget),
                                .scores_row_stride = row_stride,
                                .num_appended = num_appended(budget)});
}

}  // namespace kvship::cuda
