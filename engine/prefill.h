// Prefill reads a prompt layer by layer: all blocks of queries of a layer, then the next layer. A
// layer's full K and V exist only while it runs, so that memory is the residual stream, one layer
// of KV and one block of activations, however many layers the model has. Work is cut into (layer,
// block) steps: between any two, a run can be paused, cancelled or destroyed, and runs of several
// prompts can take turns.
//
// A PrefillEngine holds the scratch memory that runs share; it and its runs belong to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "engine/query_moments.h"
#include "engine/transformer.h"
#include "kernels/backend.h"
#include "kernels/product.h"
#include "kv/layer_view.h"
#include "kv/shape.h"

namespace kvship {

KvShape ShapeOf(const ModelConfig& config);

class PrefillEngine {
 public:
  struct Options {
    Arithmetic arithmetic = Arithmetic::kFast;
    // Queries per step: enough rows for the products to run at full speed, few enough for
    // activations to stay in cache.
    size_t block_tokens = 256;
  };

  // Borrows both; they must outlive the engine.
  PrefillEngine(const Transformer& model, Backend& backend, Options options)
      : model_(model), backend_(backend), options_(options) {
    options_.arithmetic = ArithmeticFor(model, options.arithmetic);
  }

  const Transformer& model() const { return model_; }
  const Options& options() const { return options_; }
  Backend& backend() { return backend_; }

 private:
  friend class PrefillRun;

  absl::Status UnpackLayer(size_t layer);

  const Transformer& model_;
  Backend& backend_;
  Options options_;

  // The layer whose weights are unpacked; runs on another layer unpack anew.
  size_t unpacked_layer_ = SIZE_MAX;
  ProductWeights qkv_;
  ProductWeights output_;
  ProductWeights gate_up_;
  ProductWeights down_;
  // Activations of one block of M rows.
  Buffer normed_;    // [M, C]
  Buffer qkv_out_;   // [M, (Hq + 2 H) D]
  Buffer attended_;  // [M, Hq D]
  Buffer lse_;       // [Hq, M]
  Buffer gates_;     // [M, 2 F]
  Buffer gated_;     // [M, F]
};

class PrefillRun {
 public:
  // Ids must lie inside the vocabulary, and there is at least one. With `all_logits` the residual
  // stream of every position is finished, not only of the last.
  PrefillRun(PrefillEngine& engine, std::vector<int32_t> tokens, LayerNeeds needs,
             bool all_logits = false);

  enum class Event { kBlockDone, kLayerDone };

  // Computes the next block of queries. After kLayerDone finished_layer() may be read until the
  // next Step. Not to be called once done().
  absl::StatusOr<Event> Step();

  bool done() const { return layer_ == engine_.model().config.num_layers; }
  // The share of the work that is done, in [0, 1].
  double fraction() const;
  size_t num_prompt_tokens() const { return tokens_.size(); }

  LayerView finished_layer();

  // Once done: the logits after the tokens at [position, position + n); without all_logits only the
  // last token's can be asked for. logits [n, vocab] f32.
  absl::Status Logits(size_t position, TensorView logits);

  // Bytes the run holds while it is paused.
  size_t num_bytes() const;

 private:
  absl::Status Block(size_t begin, size_t end);
  absl::Status QueryKeyValue(size_t begin, size_t end);
  absl::Status Attend(size_t begin, size_t end, TensorView attended);
  absl::Status FeedForward(TensorView residual, TensorView attended);
  // What the layer's needs ask of a block's queries [M, Hq, D]: before RoPE, and after it with the
  // log-sum-exp of their attention.
  absl::Status ObserveQueries(size_t begin, size_t end, TensorView queries);
  absl::Status ObserveAttention(size_t begin, size_t end, TensorView queries, TensorView lse);
  void KeepWindowQueries(size_t begin, size_t end, TensorView queries, TensorView lse);
  TensorView Residual(size_t begin, size_t end);
  // Whether the needs ask for the attention of some of these queries.
  bool ObservesAttention(size_t begin, size_t end) const {
    return needs_.column_sums || (begin < needs_.window_end && end > needs_.window_begin);
  }

  PrefillEngine& engine_;
  const std::vector<int32_t> tokens_;
  const LayerNeeds needs_;
  const bool all_logits_;
  size_t layer_ = 0;
  size_t position_ = 0;    // first query of the next block
  Buffer residual_;        // [T, C]
  Buffer cos_sin_;         // [T, D]
  Buffer keys_;            // [H, T, D] of the current layer
  Buffer values_;          // [H, T, D]
  Buffer window_queries_;  // [Hq, W, D]
  Buffer window_lse_;      // [Hq, W]
  // Where they are asked for:
  Buffer column_sums_;       // [Hq, T]
  QueryMoments moments_;     // of the current layer
  Buffer query_mean_;        // [Hq, D] of the finished layer
  Buffer query_covariance_;  // [Hq, D, D]
};

}  // namespace kvship
