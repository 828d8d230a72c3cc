// A whole request in one process: prefill, compression and decode as the two services do them,
// without the wire. The reference for what the services must give, and what implementations are
// compared by.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
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
  };

  LocalRun(const Transformer& model, Options options);

  struct Prefilled {
    KvPlan plan;
    std::unique_ptr<KvPool> pool;
    std::unique_ptr<SequenceCache> cache;    // with room for `max_tail_tokens`
    std::vector<Compressor::Result> layers;  // bytes of the compact layers released
    std::vector<float> logits;               // after the last prompt token
    double prefill_seconds = 0;              // compression not counted
    double compress_seconds = 0;
    size_t num_bytes = 0;  // of the compact layers together
  };

  // Reads the prompt once and compresses each layer by every one of `compressions`; prefill_seconds
  // of all are the same. Errors: as MakePlan, and InvalidArgument for ids outside the vocabulary.
  absl::StatusOr<std::vector<Prefilled>> PrefillForEach(
      const std::vector<int32_t>& tokens, const std::vector<CompressionOptions>& compressions,
      size_t max_tail_tokens, bool with_scores = false);
  absl::StatusOr<Prefilled> Prefill(const std::vector<int32_t>& tokens,
                                    const CompressionOptions& compression, size_t max_tail_tokens,
                                    bool with_scores = false);

  // Greedy output of `max_tokens` tokens, or up to an end token where `stop_at_end`.
  absl::StatusOr<std::vector<int32_t>> Generate(Prefilled& prefilled, size_t max_tokens,
                                                bool stop_at_end);

  // Logits [n, vocab] after each token of `tokens`, handed out in blocks of rows: visit(first
  // position, rows).
  absl::Status AllLogits(const std::vector<int32_t>& tokens,
                         const std::function<void(size_t, TensorView)>& visit);

  // Reads the tokens and shows each finished layer.
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
