// H2O (arXiv 2306.14048): heavy hitters are the keys that all queries of the prompt attend to most.
//
//   scores[h, i] = sum over the queries q >= i of p[q, i], reduced over h's Hq/H query heads
//
// `normalised` divides by T - i, the number of queries that see the key, since early keys are seen
// by more (NVIDIA/kvpress: ObservedAttentionPress).
#include "compress/scorers.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

class H2o final : public Scorer {
 public:
  explicit H2o(const CompressionOptions& options)
      : group_reduce_(options.group_reduce), normalised_(options.normalised) {}

  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    absl::Status reduced = ReduceGroups(backend, input.layer.column_sums, group_reduce_, scores);
    if (!reduced.ok() || !normalised_) return reduced;
    const size_t prompt_tokens = scores.dims[1];
    for (size_t h = 0; h < scores.dims[0]; ++h) {
      for (size_t i = 0; i < prompt_tokens; ++i) {
        scores.f32(h)[i] /= static_cast<float>(prompt_tokens - i);
      }
    }
    return absl::OkStatus();
  }

 private:
  const GroupReduce group_reduce_;
  const bool normalised_;
};

}  // namespace

std::unique_ptr<Scorer> MakeH2o(const CompressionOptions& options, const KvShape& /*shape*/,
                                const KvPlan& /*plan*/) {
  return std::make_unique<H2o>(options);
}

}  // namespace kvship
