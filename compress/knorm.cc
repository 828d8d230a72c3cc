// Knorm (arXiv 2406.11430): keys of small norm draw the most attention.
//
//   scores[h, i] = -norm2(k_i)
#include "base/status_macros.h"
#include "compress/scorers.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

class KNorm final : public Scorer {
 public:
  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    RETURN_IF_ERROR(RowNorms(backend, input.layer.keys, scores));
    for (size_t i = 0; i < scores.num_elements(); ++i) scores.f32()[i] = -scores.f32()[i];
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Scorer> MakeKNorm(const CompressionOptions& /*options*/, const KvShape& /*shape*/,
                                  const KvPlan& /*plan*/) {
  return std::make_unique<KNorm>();
}

}  // namespace kvship
