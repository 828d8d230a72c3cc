// Tokens drawn at random, uniformly and without regard to what they are: the floor that every other
// scorer has to beat.
//
//   scores[h, i] = hash(seed, layer, h, i), uniform in [0, 1)
#include "base/random.h"

#include "compress/scorers.h"

namespace kvship {
namespace {

class Random final : public Scorer {
 public:
  explicit Random(uint32_t seed) : seed_(seed) {}

  absl::Status Score(Backend& /*backend*/, const ScorerInput& input, TensorView scores) override {
    const uint64_t layer_seed = RandomBits(seed_, input.layer.layer);
    for (size_t h = 0; h < scores.dims[0]; ++h) {
      const uint64_t head_seed = RandomBits(layer_seed, h);
      for (size_t i = 0; i < scores.dims[1]; ++i) {
        // As many bits as a float below 1 holds exactly.
        scores.f32(h)[i] = static_cast<float>(RandomBits(head_seed, i) >> 40) * 0x1p-24f;
      }
    }
    return absl::OkStatus();
  }

 private:
  const uint32_t seed_;
};

}  // namespace

std::unique_ptr<Scorer> MakeRandom(const CompressionOptions& options, const KvShape& /*shape*/,
                                   const KvPlan& /*plan*/) {
  return std::make_unique<Random>(options.seed);
}

}  // namespace kvship
