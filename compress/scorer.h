// A Scorer scores the tokens of a layer; it is the first of compression's four parts. Each scorer
// has one file, with its formula and source, and one line in kv/scorers.inc.
//
// One Scorer per request; not thread safe.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kv/compression_options.h"
#include "kv/layer_view.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship {

// What a scorer sees of a layer.
struct ScorerInput {
  LayerView layer;
  // Attention from the plan's window queries to each key, summed over the queries; softmax over all
  // keys: votes [Hq, T] f32.
  TensorView votes;
};

class Scorer {
 public:
  virtual ~Scorer() = default;

  // Sees the window queries [begin, begin + count) of a layer, in order and before Score, to
  // collect what Score needs of them besides their votes. Errors: as Score.
  virtual absl::Status Watch(Backend& /*backend*/, const LayerView& /*layer*/, size_t /*begin*/,
                             size_t /*count*/) {
    return absl::OkStatus();
  }

  // Writes the scores of each kept set, larger is better: scores [plan's num_heads, NumScored] f32.
  // A scorer with one set per layer gives every head the same scores. InvalidArgument if the
  // layer's views do not fit each other.
  virtual absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) = 0;
};

// Positions [0, NumScored) have a score, unless the whole prompt is kept. `plan` is MakePlan's for
// `options`, here and below.
size_t NumScored(const CompressionOptions& options, const KvPlan& plan);

// Makes the scorer that `options` name. InvalidArgument for an unknown name.
absl::StatusOr<std::unique_ptr<Scorer>> MakeScorer(const CompressionOptions& options,
                                                   const KvShape& shape, const KvPlan& plan);

}  // namespace kvship
