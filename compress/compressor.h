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
  // `plan` is MakePlan's for these options. InvalidArgument if the options name parts that do not
  // go together.
  static absl::StatusOr<std::unique_ptr<Compressor>> Create(const CompressionOptions& options,
                                                            const KvShape& shape,
                                                            const KvPlan& plan);
  ~Compressor();

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

  absl::StatusOr<Result> Compress(Backend& backend, const LayerView& layer,
                                  bool with_scores = false);

 private:
  Compressor(const CompressionOptions& options, const KvShape& shape, const KvPlan& plan);

  // Fills the result's positions, masses and, on request, scores.
  absl::Status Choose(Backend& backend, const LayerView& layer, bool with_scores, Result* result);
  std::vector<std::vector<int32_t>> Select(Backend& backend, const LayerScores& scores,
                                           const HeadBudget& budget);
  // Gathers the positions into pages: compact.kept_tokens and compact.bytes.
  void Encode(Backend& backend, const LayerView& layer, Result* result);

  const CompressionOptions options_;
  const KvShape shape_;
  const KvPlan plan_;
  std::unique_ptr<Scorer> scorer_;  // none where the whole prompt is kept
};

}  // namespace kvship
