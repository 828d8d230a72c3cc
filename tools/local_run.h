// LocalRun runs a whole request in one process: prefill, compression and decode as the two services
// do them, without the wire. It is the reference for the services' results, and for comparing
// implementations. Belongs to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "compress/compressor.h"
#include "engine/decode.h"
#include "engine/prefill.h"
#include "kv/pool.h"
#include "kv/sequence.h"

namespace kvship {

class LocalRun {
 public:
  struct Options {
    Arithmetic arithmetic = Arithmetic::kFast;
    size_t num_threads = 2;
    PageFormat tail_format = PageFormat::kF16;
    size_t block_tokens = 256;
    // Of outputs, as EndTokens has them; empty: those of the model's configuration alone.
    std::vector<int32_t> end_tokens = {};
  };

  LocalRun(const Transformer& model, const Options& options);

  struct Prefilled {
    KvPlan plan;
    std::unique_ptr<KvPool> pool;
    std::unique_ptr<SequenceCache> cache;    // with room for `max_tail_tokens`
    std::vector<Compressor::Result> layers;  // without the bytes of the compact layers
    std::vector<float> logits;               // after the last prompt token
    double prefill_seconds = 0;              // without compression
    double compress_seconds = 0;
    size_t num_bytes = 0;  // of the compact layers together
  };

  // Reads the prompt once, for one prefill_seconds, and compresses each layer with each of
  // `compressions`. Errors: as MakePlan, and InvalidArgument for ids outside the vocabulary.
  absl::StatusOr<std::vector<Prefilled>> PrefillForEach(
      const std::vector<int32_t>& tokens, const std::vector<CompressionOptions>& compressions,
      size_t max_tail_tokens, bool with_scores = false);
  absl::StatusOr<Prefilled> Prefill(const std::vector<int32_t>& tokens,
                                    const CompressionOptions& compression, size_t max_tail_tokens,
                                    bool with_scores = false);

  // Generates `max_tokens` tokens greedily, or up to an end token if `stop_at_end`.
  absl::StatusOr<std::vector<int32_t>> Generate(Prefilled& prefilled, size_t max_tokens,
                                                bool stop_at_end);

  // Computes the logits [n, vocab] after each token of `tokens` and passes them on in blocks of
  // rows: visit(first position, rows).
  absl::Status AllLogits(const std::vector<int32_t>& tokens,
                         const std::function<void(size_t, TensorView)>& visit);

  // Reads the tokens and calls `visit` with each finished layer.
  absl::Status VisitLayers(const std::vector<int32_t>& tokens, const LayerNeeds& needs,
                           const std::function<absl::Status(Backend&, const LayerView&)>& visit);

 private:
  absl::StatusOr<Prefilled> Reserve(const CompressionOptions& compression, size_t prompt_tokens,
                                    size_t max_tail_tokens) const;
  absl::Status CheckTokens(const std::vector<int32_t>& tokens) const;

  const Transformer& model_;
  const Options options_;
  Backend backend_;
  PrefillEngine prefill_;
  DecodeEngine decode_;
};

}  // namespace kvship
