// Expected attention (arXiv 2510.00636): what the queries of the tokens to come are expected to
// attend to, if they are distributed as the prompt's were. With q ~ N(mu', Sigma'), the mean of
// exp(q.k / sqrt(D)) is exp(z):
//
//   z[q, i] = k_i.mu' / sqrt(D) + k_i^T Sigma' k_i / (2 D)              for i >= S
//   scores[h, i] = mean over h's Hq/H query heads of softmax_i(z) * norm2(v_i)
//
// mu' and Sigma' are the moments of the prompt's queries from S on, turned to the next F positions.
// The first S tokens are always kept and have score 0.
#include <algorithm>
#include <cmath>

#include "base/buffer.h"
#include "base/status_macros.h"
#include "compress/scorers.h"
#include "kernels/moments.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

class ExpectedAttention final : public Scorer {
 public:
  explicit ExpectedAttention(size_t sinks) : sinks_(sinks) {}

  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    const LayerView& layer = input.layer;
    const size_t query_heads = layer.query_mean.dims[0];
    const size_t prompt_tokens = scores.dims[1];
    Array<float> logits_memory(query_heads * prompt_tokens);
    const TensorView logits(logits_memory.data(), {query_heads, prompt_tokens});
    RETURN_IF_ERROR(ExpectedLogits(backend, {.mean = layer.query_mean,
                                             .covariance = layer.query_covariance,
                                             .keys = layer.keys,
                                             .logits = logits}));
    backend.threads().ParallelFor(query_heads, [&](size_t head) { Softmax(logits, head); });
    RETURN_IF_ERROR(RowNorms(backend, layer.values, scores));
    Array<float> mean_memory(scores.num_elements());
    const TensorView mean(mean_memory.data(), {scores.dims[0], prompt_tokens});
    RETURN_IF_ERROR(ReduceGroups(backend, logits, GroupReduce::kMean, mean));
    for (size_t i = 0; i < scores.num_elements(); ++i) scores.f32()[i] *= mean.f32()[i];
    return absl::OkStatus();
  }

 private:
  // Over the positions from S on; 0 before.
  void Softmax(TensorView logits, size_t head) const {
    float* const begin = logits.f32(head) + sinks_;
    float* const end = logits.f32(head) + logits.dims[1];
    std::fill(logits.f32(head), begin, 0.0f);
    const float largest = *std::max_element(begin, end);
    double sum = 0;
    for (float* z = begin; z != end; ++z) {
      *z = std::exp(*z - largest);
      sum += *z;
    }
    const float share = static_cast<float>(1.0 / sum);
    for (float* z = begin; z != end; ++z) *z *= share;
  }

  const size_t sinks_;
};

}  // namespace

std::unique_ptr<Scorer> MakeExpectedAttention(const CompressionOptions& /*options*/,
                                              const KvShape& /*shape*/, const KvPlan& plan) {
  // Sinks are the same in all layers.
  return std::make_unique<ExpectedAttention>(plan.budgets.front().sinks);
}

}  // namespace kvship
