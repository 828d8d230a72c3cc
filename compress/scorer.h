// A Scorer votes for the tokens of a layer: the first of compression's four parts, and the one that
// papers are about. One file each; the registry is in scorer.cc.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "kernels/backend.h"
#include "kv/compression_options.h"
#include "kv/layer_view.h"
#include "kv/shape.h"

namespace kvship {

// What a scorer sees of a layer.
struct ScorerInput {
  LayerView layer;
  // Sums over the window's queries of their attention to each key: votes [Hq, T] f32, softmax over
  // all keys.
  TensorView votes;
};

class Scorer {
 public:
  virtual ~Scorer() = default;

  // Scores of the positions [0, num_scored(T)) for each set of kept tokens, larger is better:
  // scores [heads, num_scored]. Positions beyond are never chosen by score.
  virtual absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) = 0;

  virtual size_t num_scored(size_t prompt_tokens) const = 0;
};

// The scorer that `options` name. InvalidArgument if there is none.
absl::StatusOr<std::unique_ptr<Scorer>> MakeScorer(const CompressionOptions& options,
                                                   const KvShape& shape);

}  // namespace kvship
