#include "compress/cuda/device_chunks.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/token_chunks.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

size_t ChunksOf(size_t num_tokens, size_t chunk_tokens) {
  return (num_tokens + chunk_tokens - 1) / chunk_tokens;
}

size_t NumChosen(const CompressionOptions& options, const KvPlan& plan, const HeadBudget& budget) {
  return NumChunks(options, plan.prompt_tokens, budget.tokens);
}

}  // namespace

BufferSizes<DeviceChunks> DeviceChunks::Sizes(const CompressionOptions& options,
                                              const KvPlan& plan) {
  size_t most_chosen = 0;
  for (const HeadBudget& budget : plan.budgets) {
    most_chosen = std::max(most_chosen, NumChosen(options, plan, budget));
  }
  const size_t num_chunks = ChunksOf(plan.prompt_tokens, options.chunk_tokens);
  return {{&DeviceChunks::offsets_, 2 * plan.budgets.size() * sizeof(int32_t)},
          {&DeviceChunks::scores_, num_chunks * sizeof(float)},
          {&DeviceChunks::chosen_, most_chosen * sizeof(int32_t)},
          {&DeviceChunks::largest_, ChunkScoresWorkspaceBytes()},
          {&DeviceChunks::workspace_, TopPositionsWorkspaceBytes(1, num_chunks)}};
}

absl::StatusOr<DeviceChunks> DeviceChunks::Create(const CompressionOptions& options,
                                                  const KvPlan& plan, cudaStream_t stream) {
  DeviceChunks chunks(options, plan, stream);
  RETURN_IF_ERROR(CreateBuffers(Sizes(options, plan), chunks));
  std::vector<int32_t>& offsets = chunks.host_offsets_;
  for (const HeadBudget& budget : plan.budgets) {
    offsets.insert(offsets.end(), {0, static_cast<int32_t>(NumChosen(options, plan, budget))});
  }
  RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(chunks.offsets_.data(), offsets.data(),
                                 chunks.offsets_.num_bytes(), cudaMemcpyHostToDevice, stream),
                 "offsets of chunks"));
  RETURN_IF_ERROR(CudaStatus(
      cudaMemsetAsync(chunks.workspace_.data(), 0, chunks.workspace_.num_bytes(), stream),
      "workspace"));
  return chunks;
}

absl::Status DeviceChunks::Select(size_t layer, const float* scores, size_t num_scored,
                                  size_t row_stride, const CompactDeviceLayer& compact) {
  const HeadBudget& budget = plan_.budgets[layer];
  RETURN_IF_ERROR(ChunkScores(stream_, {.scores = scores,
                                        .chunk_scores = scores_.as<float>(),
                                        .workspace = largest_.data(),
                                        .num_heads = plan_.num_heads,
                                        .num_tokens = plan_.prompt_tokens,
                                        .num_scored = num_scored,
                                        .scores_row_stride = row_stride,
                                        .chunk_tokens = options_.chunk_tokens,
                                        .num_sinks = budget.sinks,
                                        .num_recent = budget.recent_tokens}));
  const size_t num_chunks = ChunksOf(plan_.prompt_tokens, options_.chunk_tokens);
  RETURN_IF_ERROR(TopPositions(stream_, {.scores = scores_.as<float>(),
                                         .offsets = offsets_.as<int32_t>() + 2 * layer,
                                         .positions = chosen_.as<int32_t>(),
                                         .workspace = workspace_.data(),
                                         .num_rows = 1,
                                         .num_scores = num_chunks,
                                         .scores_row_stride = num_chunks}));
  return ChunkPositions(stream_, {.chunks = chosen_.as<int32_t>(),
                                  .offsets = compact.offsets(),
                                  .positions = compact.positions(),
                                  .num_heads = plan_.num_heads,
                                  .num_tokens = plan_.prompt_tokens,
                                  .num_chunks = NumChosen(options_, plan_, budget),
                                  .chunk_tokens = options_.chunk_tokens});
}

}  // namespace kvship::cuda
