// Prefill reads a prompt layer by layer: all blocks of queries of a layer, then the next layer. A
// layer's full K and V exist only while it runs, so memory is the residual stream, one layer of KV
// and one block of activations, however many layers the model has. Work is cut into (layer, block)
// steps; between two steps a run can be paused, cancelled or destroyed, and several runs can take
// turns. A mixture of experts has further steps after a layer's blocks, one per expert. A run may
// read several short prompts side by side, which share its products; each gets bit-identical
// results to a run of its own. So does a prompt whose prefix is in the prefix cache: its run starts
// where the two differ, or at the first query that its scorer observes, if that is earlier.
//
// A PrefillEngine holds the scratch memory that runs share. The engine and its runs belong to one
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "engine/feed_forward.h"
#include "engine/kv_shape.h"
#include "engine/layer_observation.h"
#include "engine/mixture_rows.h"
#include "engine/prefix_cache.h"
#include "engine/transformer.h"
#include "kernels/backend.h"
#include "kernels/product.h"
#include "kv/layer_view.h"

namespace kvship {

class PrefillEngine {
 public:
  struct Options {
    Arithmetic arithmetic = Arithmetic::kFast;
    // Queries per step: enough rows for the products to run at full speed, few enough for
    // activations to stay in cache.
    size_t block_tokens = 256;
    // Size of the prefix cache: K and V, in f32, of prompt prefixes that later prompts may share.
    size_t prefix_cache_bytes = 0;
  };

  // Bytes of one block of the prefix cache.
  static size_t PrefixBlockBytes(const ModelConfig& config);

  // Borrows both; they must outlive the engine.
  PrefillEngine(const Transformer& model, Backend& backend, Options options);

  const Transformer& model() const { return model_; }
  const Options& options() const { return options_; }
  Backend& backend() { return backend_; }
  const PrefixCache& prefix_cache() const { return prefix_cache_; }

 private:
  friend class PrefillRun;

  absl::Status UnpackLayer(size_t layer);

  const Transformer& model_;
  Backend& backend_;
  Options options_;
  PrefixCache prefix_cache_;  // blocks [L, 2, H, kPrefixBlockTokens, D] f32, K and then V

  // The layer whose weights are unpacked. A run on another layer unpacks its own.
  size_t unpacked_layer_ = SIZE_MAX;
  ProductWeights qkv_;
  ProductWeights output_;
  ProductWeights router_;  // for a mixture of experts
  FeedForward feed_forward_;
  // Activations of one block of M rows.
  Buffer normed_;         // [M, C]
  Buffer qkv_out_;        // [M, (Hq + 2 H) D]
  Buffer attended_;       // [M, Hq D]
  Buffer lse_;            // [Hq, M]
  Buffer router_logits_;  // [M, E]
};

// A prompt to read, and what its scorer needs of each layer. It has at least one token; ids must be
// inside the vocabulary.
struct PrefillPrompt {
  std::vector<int32_t> tokens;
  LayerNeeds needs = {};
  std::string cache_salt = {};  // its prefix is shared with prompts of the same salt
};

class PrefillRun {
 public:
  // Reads `prompts`, at least one, side by side. With `all_logits` the last layer is computed for
  // every position, not only for each prompt's last.
  PrefillRun(PrefillEngine& engine, std::vector<PrefillPrompt> prompts, bool all_logits = false);

  enum class Event { kBlockDone, kLayerDone };

  // Computes the next block of queries, or the next expert's rows. After kLayerDone,
  // finished_layer() may be read until the next Step. Must not be called once done().
  absl::StatusOr<Event> Step();

  bool done() const { return layer_ == engine_.model().config.num_layers; }
  // The share of the work that is done, in [0, 1].
  double fraction() const;
  // The tokens at a prompt's beginning that were not computed, because the prefix cache had them.
  size_t reused_tokens(size_t prompt) const { return prompts_[prompt].prefix.reused_tokens(); }

  LayerView finished_layer(size_t prompt = 0);

  // Call it once done: the logits after the tokens at [position, position + n) of a prompt, in
  // logits [n, vocab] f32. Without all_logits only the last token's are available.
  absl::Status Logits(size_t prompt, size_t position, TensorView logits);

  // Bytes that a paused run of one prompt holds.
  static size_t BytesFor(const ModelConfig& config, size_t num_tokens, const LayerNeeds& needs);

 private:
  struct Prompt {
    std::vector<int32_t> tokens;
    size_t begin = 0;      // its first token among those of all prompts
    size_t begin_row = 0;  // its first row among all rows
    LayerObservation observation;
    PrefixCache::Prefix prefix;

    size_t num_rows() const { return tokens.size() - prefix.reused_tokens(); }
  };
  // The part of a block that belongs to one prompt.
  struct Piece {
    Prompt& prompt;
    size_t row;  // its first row in the block
    size_t num_rows;
    size_t position;  // of the first row, in the prompt
    bool ends_prompt() const { return position + num_rows == prompt.tokens.size(); }
  };

  void AddPrompt(PrefillPrompt prompt);
  std::vector<Piece> PiecesOf(size_t begin, size_t end);
  absl::Status EmbedBlock(size_t begin, const std::vector<Piece>& pieces);
  absl::Status BlockStep();
  absl::Status Block(size_t begin, size_t end, const std::vector<Piece>& pieces);
  absl::Status QueryKeyValue(size_t begin, size_t end, const std::vector<Piece>& pieces);
  absl::Status Attend(const Piece& piece, TensorView queries, TensorView attended);
  // Everything after attention for rows [begin, end); in a mixture, up to the choice of experts.
  absl::Status AfterAttention(size_t begin, size_t end, TensorView attended);
  TensorView Residual(size_t begin, size_t end);
  // A prompt's part of keys_ or values_: [H, its tokens, D].
  TensorView Cached(Buffer& cache, const Prompt& prompt);
  // Copy K and V of the current layer from the prefix cache's blocks, and into blocks to be kept.
  void FetchReused();
  void FillBlocks();
  // For each head of K and of V, calls copy(its rows of the current layer in the block, its rows in
  // the run).
  template <class Copy>
  void ForBlock(const Prompt& prompt, size_t block, const Copy& copy);

  PrefillEngine& engine_;
  const bool all_logits_;
  std::vector<Prompt> prompts_;
  size_t num_tokens_ = 0;  // T, of all prompts
  size_t num_rows_ = 0;    // M, those that are computed
  size_t layer_ = 0;
  size_t begin_ = 0;                    // first row of the next block; M: the experts' turn
  Buffer residual_;                     // [M, C]
  Buffer cos_sin_;                      // [M, D]
  Buffer keys_;                         // [H, T, D] of the current layer
  Buffer values_;                       // [H, T, D]
  std::optional<MixtureRows> mixture_;  // for a mixture of experts
};

}  // namespace kvship
