// MixtureRows takes the rows of a prefill run through the experts of a layer. Blocks of rows arrive
// one by one and each row's experts are chosen; when all have arrived, each step runs one expert.
// An expert's weights are thus unpacked once for all rows of the layer: one block has too few rows
// per expert to pay for unpacking. Belongs to one thread.
#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "base/tensor_view.h"
#include "engine/expert_routing.h"
#include "engine/feed_forward.h"
#include "engine/model_config.h"

namespace kvship {

class MixtureRows {
 public:
  MixtureRows(const ModelConfig& config, size_t num_rows);

  // Resets for the next layer.
  void Clear();

  // Where the caller writes the normed activations of rows [begin, end). Rows for which no experts
  // are chosen have none.
  TensorView Normed(size_t begin, size_t end);

  // Chooses the experts of rows [begin, begin + M) by their logits [M, E] f32.
  void Choose(Backend& backend, TensorView logits, size_t begin);

  // Begins the steps; all rows must have arrived.
  void BeginSteps() { rows_ = routing_.ByExpert(); }

  // Runs up to `most_rows` rows through the layer's next expert and adds the results to the
  // residual stream [num_rows, C]. Must not be called once done(). A row's experts come in
  // ascending order.
  absl::Status Step(FeedForward& feed_forward, size_t layer, size_t most_rows, TensorView residual);

  // Whether each row has been through all its experts.
  bool done() const { return num_done_ == rows_.size(); }
  // The share of the steps' work that is done, in [0, 1].
  double fraction() const;

  static size_t BytesFor(const ModelConfig& config, size_t num_rows);

 private:
  const ModelConfig& config_;
  ExpertRouting routing_;
  Buffer normed_;                    // [num_rows, C]
  std::span<const RoutedRow> rows_;  // of the steps
  size_t num_done_ = 0;              // of rows_
};

}  // namespace kvship
