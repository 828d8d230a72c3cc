#include "engine/cuda/device_observation.h"

#include <algorithm>

#include "base/status_macros.h"
#include "engine/cuda/device_transformer.h"
#include "engine/query_moments.h"
#include "kernels/cuda/query_moments.h"
#include "kernels/cuda/window_rows.h"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {

absl::StatusOr<std::unique_ptr<DeviceObservation>> DeviceObservation::Create(
    const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs, cudaStream_t stream) {
  std::unique_ptr<DeviceObservation> observation(
      new DeviceObservation(config, num_tokens, needs, stream));
  RETURN_IF_ERROR(CreateBuffers(Sizes(config, num_tokens, needs), *observation));
  if (needs.future_tokens > 0) RETURN_IF_ERROR(observation->FillMeanTurns());
  return observation;
}

BufferSizes<DeviceObservation> DeviceObservation::Sizes(const ModelConfig& config,
                                                        size_t num_tokens,
                                                        const LayerNeeds& needs) {
  using Self = DeviceObservation;
  const size_t heads = config.num_query_heads, d = config.head_dim;
  const size_t window_rows = heads * needs.num_window_queries();
  BufferSizes<Self> sizes = {{&Self::window_queries_, window_rows * d * kElementBytes},
                             {&Self::window_lse_, window_rows * sizeof(float)}};
  if (needs.column_sums) {
    sizes.push_back({&Self::column_sums_, heads * num_tokens * sizeof(float)});
  }
  if (needs.future_tokens > 0) {
    sizes.insert(sizes.end(), {{&Self::query_sums_, heads * d * sizeof(double)},
                               {&Self::query_products_, heads * d * d * sizeof(double)},
                               {&Self::mean_turns_, d * sizeof(double)},
                               {&Self::query_mean_, heads * d * sizeof(float)},
                               {&Self::query_covariance_, heads * d * d * sizeof(float)}});
  }
  return sizes;
}

absl::Status DeviceObservation::FillMeanTurns() {
  for (const MeanTurn& turn : MeanTurns(config_, num_tokens_, needs_.future_tokens)) {
    host_turns_.insert(host_turns_.end(), {turn.cosine, turn.sine});
  }
  return CudaStatus(cudaMemcpyAsync(mean_turns_.data(), host_turns_.data(), mean_turns_.num_bytes(),
                                    cudaMemcpyHostToDevice, stream_),
                    "mean turns");
}

absl::Status DeviceObservation::Clear() {
  for (const DeviceBuffer* sums : {&column_sums_, &query_sums_, &query_products_}) {
    if (sums->num_bytes() == 0) continue;
    RETURN_IF_ERROR(
        CudaStatus(cudaMemsetAsync(sums->data(), 0, sums->num_bytes(), stream_), "sums"));
  }
  return absl::OkStatus();
}

absl::Status DeviceObservation::AddBeforeRope(const RopeArgs& block) {
  const size_t end = block.first_row + block.num_tokens;
  if (needs_.future_tokens == 0 || end <= needs_.moments_begin) return absl::OkStatus();
  const size_t first = std::max(block.first_row, needs_.moments_begin);
  const size_t row_elements = (block.num_query_heads + 2 * block.num_kv_heads) * block.head_dim;
  return AddQueryMoments(stream_, {.q = static_cast<const std::byte*>(block.qkv) +
                                        (first - block.first_row) * row_elements * kElementBytes,
                                   .norm = block.query_norm,
                                   .sums = query_sums_.as<double>(),
                                   .products = query_products_.as<double>(),
                                   .dtype = block.dtype,
                                   .num_rows = end - first,
                                   .num_query_heads = block.num_query_heads,
                                   .head_dim = block.head_dim,
                                   .q_row_stride = row_elements,
                                   .norm_epsilon = block.norm_epsilon});
}

absl::Status DeviceObservation::AddAttention(const PromptAttentionArgs& block) {
  RETURN_IF_ERROR(KeepWindow(block));
  return needs_.column_sums ? AddColumnSums(block) : absl::OkStatus();
}

absl::Status DeviceObservation::KeepWindow(const PromptAttentionArgs& block) {
  const size_t begin = block.first_position;
  const size_t first = std::max(begin, needs_.window_begin);
  const size_t last = std::min(begin + block.num_queries, needs_.window_end);
  if (first >= last) return absl::OkStatus();
  return KeepWindowRows(stream_, {.q = block.q,
                                  .lse = block.lse,
                                  .window_q = window_queries_.data(),
                                  .window_lse = window_lse_.as<float>(),
                                  .num_query_heads = block.num_query_heads,
                                  .head_dim = block.head_dim,
                                  .window = needs_.num_window_queries(),
                                  .from_row = first - begin,
                                  .to_row = first - needs_.window_begin,
                                  .num_rows = last - first,
                                  .q_row_stride = block.q_row_stride,
                                  .lse_row_stride = block.lse_row_stride});
}

// By as many queries as a pass over the keys takes. Blocks begin at multiples of that, so that the
// sums do not depend on their size.
absl::Status DeviceObservation::AddColumnSums(const PromptAttentionArgs& block) {
  for (size_t row = 0; row < block.num_queries; row += kMostWindowQueries) {
    const size_t queries = std::min(kMostWindowQueries, block.num_queries - row);
    const size_t first = block.first_position + row;
    RETURN_IF_ERROR(WindowVotes(stream_, {.q = static_cast<const std::byte*>(block.q) +
                                               row * block.q_row_stride * kElementBytes,
                                          .keys = block.keys,
                                          .lse = block.lse + row,
                                          .votes = column_sums_.as<float>(),
                                          .dtype = block.dtype,
                                          .num_query_heads = block.num_query_heads,
                                          .num_kv_heads = block.num_kv_heads,
                                          .window = queries,
                                          .num_keys = first + queries,
                                          .head_dim = block.head_dim,
                                          .q_head_stride = block.head_dim,
                                          .q_row_stride = block.q_row_stride,
                                          .lse_head_stride = block.lse_row_stride,
                                          .key_head_stride = block.head_stride,
                                          .votes_row_stride = num_tokens_,
                                          .first_position = first,
                                          .accumulate = true}));
  }
  return absl::OkStatus();
}

absl::Status DeviceObservation::Finish() {
  if (needs_.future_tokens == 0) return absl::OkStatus();
  return TurnMoments(stream_, {.sums = query_sums_.as<double>(),
                               .products = query_products_.as<double>(),
                               .turns = mean_turns_.as<double>(),
                               .mean = query_mean_.as<float>(),
                               .covariance = query_covariance_.as<float>(),
                               .pairs = config_.rope_pairs,
                               .num_queries = num_tokens_ - needs_.moments_begin,
                               .num_query_heads = config_.num_query_heads,
                               .head_dim = config_.head_dim});
}

void DeviceObservation::ShowIn(DeviceLayerView* view) const {
  view->window_queries = window_queries_.data();
  view->window_lse = window_lse_.as<float>();
  view->column_sums = column_sums_.as<float>();
  view->query_mean = query_mean_.as<float>();
  view->query_covariance = query_covariance_.as<float>();
}

}  // namespace kvship::cuda
