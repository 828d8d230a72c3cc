// TOVA (arXiv 2401.06104): what the prompt's last query attends to, mean over all query heads; one
// set for the whole layer.
//
//   scores[h, i] = mean over all Hq query heads of p[T - 1, i]
#include <cstring>

#include "base/buffer.h"
#include "base/status_macros.h"
#include "compress/scorers.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

class Tova final : public Scorer {
 public:
  explicit Tova(size_t prompt_tokens) : prompt_tokens_(prompt_tokens) {}

  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    const LayerView& layer = input.layer;
    const size_t query_heads = layer.window_queries.dims[0];
    // The window ends with the prompt: kv/ allows no other for tova.
    const size_t last = layer.window_queries.dims[1] - 1;
    Array<float> votes_memory(query_heads * prompt_tokens_);
    const TensorView votes(votes_memory.data(), {query_heads, prompt_tokens_});
    RETURN_IF_ERROR(WindowVotes(backend, {.q = layer.window_queries.Slice(1, last, 1),
                                          .keys = layer.keys,
                                          .lse = layer.window_lse.Slice(1, last, 1),
                                          .first_position = prompt_tokens_ - 1,
                                          .votes = votes}));
    RETURN_IF_ERROR(ReduceGroups(backend, votes, GroupReduce::kMean, scores.Slice(0, 0, 1)));
    for (size_t h = 1; h < scores.dims[0]; ++h) {
      std::memcpy(scores.f32(h), scores.f32(), prompt_tokens_ * sizeof(float));
    }
    return absl::OkStatus();
  }

 private:
  const size_t prompt_tokens_;
};

}  // namespace

std::unique_ptr<Scorer> MakeTova(const CompressionOptions& /*options*/, const KvShape& /*shape*/,
                                 const KvPlan& plan) {
  return std::make_unique<Tova>(plan.prompt_tokens);
}

}  // namespace kvship
