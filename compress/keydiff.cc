// KeyDiff (arXiv 2504.15364): keys that point elsewhere than the others carry what the others do
// not.
//
//   scores[h, i] = -cos(k_i, mean over j of k_j / norm2(k_j))
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/status_macros.h"
#include "compress/scorers.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

// Keeps the direction of a key of zeros at zero instead of dividing by it.
constexpr float kLeastNorm = 1e-12f;

class KeyDiff final : public Scorer {
 public:
  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    const TensorView& keys = input.layer.keys;
    // Each row of scores holds the norms until it is their turn to be replaced.
    RETURN_IF_ERROR(RowNorms(backend, keys, scores));
    backend.threads().ParallelFor(scores.dims[0], [&](size_t h) { ScoreHead(keys, h, scores); });
    return absl::OkStatus();
  }

 private:
  static void ScoreHead(const TensorView& keys, size_t h, TensorView scores) {
    const size_t num_tokens = keys.dims[1];
    const size_t head_dim = keys.dims[2];
    float* const row = scores.f32(h);
    // The mean's length does not matter to a cosine.
    std::vector<double> sum(head_dim);
    for (size_t i = 0; i < num_tokens; ++i) {
      row[i] = 1.0f / std::max(row[i], kLeastNorm);
      const float* const key = keys.f32(h, i);
      for (size_t d = 0; d < head_dim; ++d) sum[d] += double{key[d]} * row[i];
    }
    double square = 0;
    for (double x : sum) square += x * x;
    const double inverse = 1.0 / std::max(std::sqrt(square), double{kLeastNorm});
    std::vector<float> anchor(head_dim);
    for (size_t d = 0; d < head_dim; ++d) anchor[d] = static_cast<float>(sum[d] * inverse);
    for (size_t i = 0; i < num_tokens; ++i) {
      const float* const key = keys.f32(h, i);
      float product = 0;
      for (size_t d = 0; d < head_dim; ++d) product += key[d] * anchor[d];
      row[i] *= -product;
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeKeyDiff(const CompressionOptions& /*options*/, const KvShape& /*shape*/,
                                    const KvPlan& /*plan*/) {
  return std::make_unique<KeyDiff>();
}

}  // namespace kvship
