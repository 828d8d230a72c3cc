#include "engine/cuda/device_mixture.h"

#include <span>

#include "base/status_macros.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/expert_product.h"

namespace kvship::cuda {
namespace {

// cuBLASLt's products of so many rows take as long as of any fewer, and it chooses an algorithm for
// each number of rows: there are few numbers so.
constexpr size_t kRowMultiple = 64;
// Up to so many rows per expert, on average, weights are read once by ExpertProduct, in two kernels
// for all experts instead of two for each.
constexpr size_t kFewRows = 32;

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMixture>> DeviceMixture::Create(const DeviceTransformer& model,
                                                                     Products& products, Use use,
                                                                     size_t max_tokens) {
  std::unique_ptr<DeviceMixture> mixture(new DeviceMixture(model, products));
  const ModelConfig& config = model.config();
  const size_t num_choices = max_tokens * config.experts_per_token;
  const size_t multiple = use == Use::kPrompts ? kRowMultiple : 1;
  const size_t num_rows = MostGroupedRows(mixture->Grouping(max_tokens, multiple));
  const size_t run_bytes = config.num_experts * sizeof(ExpertRows);
  using Self = DeviceMixture;
  const BufferSizes<Self> buffers = {
      {&Self::logits_, max_tokens * config.num_experts * sizeof(float)},
      {&Self::experts_, num_choices * sizeof(uint32_t)},
      {&Self::weights_, num_choices * sizeof(float)},
      {&Self::positions_, num_choices * sizeof(uint32_t)},
      {&Self::runs_, run_bytes},
      {&Self::rows_, num_rows * config.hidden_dim * kElementBytes},
      {&Self::gate_up_, num_rows * 2 * config.ffn_dim * kElementBytes},
      {&Self::gated_, num_rows * config.ffn_dim * kElementBytes}};
  RETURN_IF_ERROR(CreateBuffers(buffers, *mixture));
  if (use == Use::kPrompts) {
    ASSIGN_OR_RETURN(mixture->host_runs_, PinnedBuffer::Create(run_bytes));
  }
  return mixture;
}

GroupByExpertArgs DeviceMixture::Grouping(size_t num_tokens, size_t multiple) const {
  return {.experts = experts_.as<uint32_t>(),
          .positions = positions_.as<uint32_t>(),
          .runs = runs_.as<ExpertRows>(),
          .num_tokens = num_tokens,
          .num_experts = model_.config().num_experts,
          .experts_per_token = model_.config().experts_per_token,
          .multiple = multiple};
}

absl::Status DeviceMixture::Spread(cudaStream_t stream, const Batch& batch,
                                   const GroupByExpertArgs& grouping) {
  const ModelConfig& config = model_.config();
  RETURN_IF_ERROR(products_.Run(stream, {.x = batch.normed,
                                         .weights = model_.layer(batch.layer).router,
                                         .out = logits_.data(),
                                         .dtype = model_.dtype(),
                                         .out_dtype = DType::kF32,
                                         .num_tokens = batch.num_tokens,
                                         .rows = config.num_experts,
                                         .cols = config.hidden_dim}));
  RETURN_IF_ERROR(ChooseExperts(stream, {.logits = logits_.as<float>(),
                                         .experts = experts_.as<uint32_t>(),
                                         .weights = weights_.as<float>(),
                                         .num_tokens = batch.num_tokens,
                                         .num_experts = config.num_experts,
                                         .experts_per_token = config.experts_per_token,
                                         .normalizes = config.normalizes_expert_weights}));
  RETURN_IF_ERROR(GroupByExpert(stream, grouping));
  return SpreadRows(stream, {.x = batch.normed,
                             .positions = positions_.as<uint32_t>(),
                             .rows = rows_.data(),
                             .num_tokens = batch.num_tokens,
                             .experts_per_token = config.experts_per_token,
                             .width = config.hidden_dim});
}

absl::Status DeviceMixture::Gate(cudaStream_t stream, size_t num_rows) {
  return SiluMul(stream, {.gate_up = gate_up_.data(),
                          .out = gated_.data(),
                          .dtype = model_.dtype(),
                          .num_tokens = num_rows,
                          .width = model_.config().ffn_dim});
}

absl::Status DeviceMixture::Collect(cudaStream_t stream, const Batch& batch) {
  const ModelConfig& config = model_.config();
  return CollectRows(stream, {.rows = rows_.data(),
                              .positions = positions_.as<uint32_t>(),
                              .weights = weights_.as<float>(),
                              .x = batch.residual,
                              .dtype = model_.dtype(),
                              .num_tokens = batch.num_tokens,
                              .experts_per_token = config.experts_per_token,
                              .width = config.hidden_dim});
}

absl::Status DeviceMixture::AddStep(cudaStream_t stream, const Batch& batch) {
  const size_t c = model_.config().hidden_dim, f = model_.config().ffn_dim;
  const GroupByExpertArgs grouping = Grouping(batch.num_tokens, 1);
  RETURN_IF_ERROR(Spread(stream, batch, grouping));
  ExpertProductArgs product = {.x = rows_.data(),
                               .weights = model_.layer(batch.layer).gate_up,
                               .runs = runs_.as<ExpertRows>(),
                               .out = gate_up_.data(),
                               .dtype = model_.dtype(),
                               .num_runs = MostActiveExperts(grouping),
                               .rows = 2 * f,
                               .cols = c};
  RETURN_IF_ERROR(ExpertProduct(stream, product));
  RETURN_IF_ERROR(Gate(stream, MostGroupedRows(grouping)));
  product.x = gated_.data();
  product.weights = model_.layer(batch.layer).down;
  product.out = rows_.data();
  product.rows = c;
  product.cols = f;
  RETURN_IF_ERROR(ExpertProduct(stream, product));
  return Collect(stream, batch);
}

absl::Status DeviceMixture::AddBlock(cudaStream_t stream, const Batch& batch) {
  const ModelConfig& config = model_.config();
  if (batch.num_tokens * config.experts_per_token <= kFewRows * config.num_experts) {
    return AddStep(stream, batch);
  }
  const DeviceLayerWeights& w = model_.layer(batch.layer);
  const size_t c = config.hidden_dim, f = config.ffn_dim;
  RETURN_IF_ERROR(Spread(stream, batch, Grouping(batch.num_tokens, kRowMultiple)));
  RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(host_runs_.data(), runs_.data(), runs_.num_bytes(),
                                             cudaMemcpyDeviceToHost, stream),
                             "rows of experts"));
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream), "rows of experts"));
  std::span<const ExpertRows> runs(host_runs_.as<ExpertRows>(), config.num_experts);
  while (runs.back().count == 0) runs = runs.first(runs.size() - 1);
  const auto padded = [](const ExpertRows& run) {
    return (run.count + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  };
  const auto multiply = [&](const DeviceBuffer& x, const std::byte* weights,
                            const DeviceBuffer& out, size_t rows, size_t cols) -> absl::Status {
    for (const ExpertRows& run : runs) {
      RETURN_IF_ERROR(
          products_.Run(stream, {.x = x.data() + run.first * cols * kElementBytes,
                                 .weights = weights + run.expert * rows * cols * kElementBytes,
                                 .out = out.data() + run.first * rows * kElementBytes,
                                 .dtype = model_.dtype(),
                                 .out_dtype = model_.dtype(),
                                 .num_tokens = padded(run),
                                 .rows = rows,
                                 .cols = cols}));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(multiply(rows_, w.gate_up, gate_up_, 2 * f, c));
  RETURN_IF_ERROR(Gate(stream, runs.back().first + padded(runs.back())));
  RETURN_IF_ERROR(multiply(gated_, w.down, rows_, c, f));
  return Collect(stream, batch);
}

}  // namespace kvship::cuda
