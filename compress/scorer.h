// A Scorer votes for the tokens of a layer: the first of compression's four parts, and the one that
// papers are about. One file each, with the formula and its source, and a line in kv/scorers.inc.
//
// One per request; belongs to one thread.
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
  // Sums over the plan's window of its queries' attention to each key, softmax over all keys: votes
  // [Hq, T] f32.
  TensorView votes;
};

class Scorer {
 public:
  virtual ~Scorer() = default;

  // Adds what has to come with each layer beside keys, values and the queries of the plan's window.
  virtual void AddNeeds(LayerNeeds& /*needs*/) const {}

  // Positions [0, num_scored) have a score; those beyond are chosen after all that have one.
  virtual size_t num_scored(const KvPlan& plan) const { return plan.prompt_tokens; }

  // Sees the queries [begin, begin + count) of the layer's window, in order and before Score, for
  // what Score needs of them beside their votes. Errors: as Score.
  virtual absl::Status Watch(Backend& /*backend*/, const LayerView& /*layer*/, size_t /*begin*/,
                             size_t /*count*/) {
    return absl::OkStatus();
  }

  // Scores of each set of kept tokens, larger is better: scores [plan's num_heads, num_scored] f32.
  // A scorer of one set for the whole layer gives every head the same. Errors: InvalidArgument if
  // the layer's views do not fit each other.
  virtual absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) = 0;
};

// The scorer that `options` name; `plan` is MakePlan's for them. InvalidArgument if there is none.
absl::StatusOr<std::unique_ptr<Scorer>> MakeScorer(const CompressionOptions& options,
                                                   const KvShape& shape, const KvPlan& plan);

}  // namespace kvship
