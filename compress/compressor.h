// Compressor turns each finished layer of a prompt into its compact form, in four steps chosen per
// request: a scorer scores tokens, an allocator decides how many each head keeps, a selector takes
// the best, and an encoder gathers them into pages.
//
// One Compressor per request; it keeps no layer state once Compress has returned. Not thread safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "kernels/backend.h"
#include "kv/compact_layer.h"
#include "kv/compression_options.h"
#include "kv/layer_view.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship {

class Scorer;
struct LayerScores;

class Compressor {
 public:
  // `plan` is MakePlan's result for these validated options. InvalidArgument if the scorer is
  // unknown.
  static absl::StatusOr<std::unique_ptr<Compressor>> Create(const CompressionOptions& options,
                                                            const KvShape& shape,
                                                            const KvPlan& plan);
  ~Compressor();

  // The most host memory that a Compressor holds between two calls.
  static size_t BytesFor(const CompressionOptions& options, const KvShape& shape,
                         const KvPlan& plan);

  // What the engine must deliver with each layer.
  LayerNeeds needs() const;

  struct Result {
    CompactLayer compact;
    // Original positions of the kept tokens, per head, ascending.
    std::vector<std::vector<int32_t>> positions;
    // Scores [heads, number of scored positions], for studies; empty unless requested, or if the
    // whole prompt is kept.
    std::vector<std::vector<float>> scores;
  };

  // Adds the votes of the layer's next window queries, at most kMostVoters per call: a window may
  // be as long as the prompt, and its votes then take as long as the layer. Returns true when all
  // have voted; call Compress on the same layer next. `layer` and errors: as Compress.
  static constexpr size_t kMostVoters = 256;
  absl::StatusOr<bool> Vote(Backend& backend, const LayerView& layer);

  // Compresses a finished layer that has the plan's shape and prompt and the data in needs().
  // Counts any votes that Vote has not. Layers may come in any order. If window queries are NaN,
  // because the model's activations overflowed, so are the masses. InvalidArgument if the layer's
  // views do not fit each other.
  absl::StatusOr<Result> Compress(Backend& backend, const LayerView& layer,
                                  bool with_scores = false);

 private:
  Compressor(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan);

  // Fills in the result's positions and masses and, if requested, scores.
  absl::Status Choose(Backend& backend, const LayerView& layer, bool with_scores, Result* result);
  std::vector<std::vector<int32_t>> Select(Backend& backend, const LayerScores& scores,
                                           const HeadBudget& budget);
  // Fills in the masses of the result's positions: NaN for a set whose queries are NaN.
  void Measure(Backend& backend, const LayerView& layer, const LayerScores& scores, Result* result);
  // Gathers the positions into pages: compact.kept_tokens and compact.bytes.
  void Encode(Backend& backend, const LayerView& layer, Result* result);

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  std::unique_ptr<Scorer> scorer_;  // none where the whole prompt is kept
  // Of the layer being voted on:
  size_t num_voters_ = 0;  // queries that have voted
  Array<float> votes_;     // [Hq, T], once the first has voted
};

}  // namespace kvship
