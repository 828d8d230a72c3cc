// StreamingLLM (arXiv 2309.17453) looks at no token: the first S and the last B - S are kept.
//
//   scores[h, i] = 1 for i < S or i >= T - (B - S), 0 between
//
// so that the same tokens are kept where the options leave room beside the always-kept ones.
#include <algorithm>

#include "compress/scorers.h"

namespace kvship {
namespace {

class StreamingLlm final : public Scorer {
 public:
  explicit StreamingLlm(const KvPlan& plan) : budgets_(plan.budgets) {}

  absl::Status Score(Backend& /*backend*/, const ScorerInput& input, TensorView scores) override {
    const HeadBudget& budget = budgets_[input.layer.layer];
    const size_t num_dropped = scores.dims[1] - budget.tokens;
    for (size_t h = 0; h < scores.dims[0]; ++h) {
      std::fill_n(scores.f32(h), scores.dims[1], 1.0f);
      std::fill_n(scores.f32(h) + budget.sinks, num_dropped, 0.0f);
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<HeadBudget> budgets_;
};

}  // namespace

std::unique_ptr<Scorer> MakeStreamingLlm(const CompressionOptions& /*options*/,
                                         const KvShape& /*shape*/, const KvPlan& plan) {
  return std::make_unique<StreamingLlm>(plan);
}

}  // namespace kvship
