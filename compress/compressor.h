// Compressor turns each finished layer of a prompt into its compact form by four parts, chosen per
// request: a scorer votes for tokens, an allocator says how many each head keeps, a selector takes
// the best, an encoder gathers them into pages.
//
// One Compressor per request; it keeps nothing of a layer once Compress has returned. Belongs to
// one thread.
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
  // `plan` is MakePlan's for these options, which have been validated. InvalidArgument if the
  // scorer is unknown.
  static absl::StatusOr<std::unique_ptr<Compressor>> Create(const CompressionOptions& options,
                                                            const KvShape& shape,
                                                            const KvPlan& plan);
  ~Compressor();

  // Bytes of host memory that one holds between two calls, at most.
  static size_t BytesFor(const CompressionOptions& options, const KvShape& shape,
                         const KvPlan& plan);

  // What the engine has to deliver with each layer.
  LayerNeeds needs() const;

  struct Result {
    CompactLayer compact;
    // Original positions of the kept tokens, per head, ascending.
    std::vector<std::vector<int32_t>> positions;
    // Scores [heads, number of scored positions], for studies; empty unless asked for, or where the
    // whole prompt is kept.
    std::vector<std::vector<float>> scores;
  };

  // Counts the votes of the next queries of the layer's window, kMostVoters at most, for a window
  // may be as long as the prompt, and its votes take as long as the layer. True once all have
  // voted, and Compress of the same layer comes next. `layer` and errors: as Compress.
  static constexpr size_t kMostVoters = 256;
  absl::StatusOr<bool> Vote(Backend& backend, const LayerView& layer);

  // The compact form of a finished layer, of the plan's shape and prompt and with what needs() asks
  // for; counts what votes are left. Layers may come in any order. Queries of the window that are
  // not numbers, as the model's activations have overflowed, give masses that are not. Errors:
  // InvalidArgument if the layer's views do not fit each other.
  absl::StatusOr<Result> Compress(Backend& backend, const LayerView& layer,
                                  bool with_scores = false);

 private:
  Compressor(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan);

  // Fills in the result's positions, masses and, on request, scores.
  absl::Status Choose(Backend& backend, const LayerView& layer, bool with_scores, Result* result);
  std::vector<std::vector<int32_t>> Select(Backend& backend, const LayerScores& scores,
                                           const HeadBudget& budget);
  // Fills in the masses of the result's positions: NaN for a set whose queries are not numbers.
  void Measure(Backend& backend, const LayerView& layer, const LayerScores& scores, Result* result);
  // Gathers the positions into pages: compact.kept_tokens and compact.bytes.
  void Encode(Backend& backend, const LayerView& layer, Result* result);

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  std::unique_ptr<Scorer> scorer_;  // none where the whole prompt is kept
  // Of the layer that votes are counted of:
  size_t num_voters_ = 0;  // that have voted
  Array<float> votes_;     // [Hq, T], once one has
};

}  // namespace kvship
