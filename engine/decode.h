// DecodeEngine computes one decode step of a batch: each sequence's next token goes through the
// network, its K and V are appended to the sequence's cache, and its logits come out. A sequence's
// logits do not depend on who else is in the batch. Belongs to one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "engine/transformer.h"
#include "kernels/backend.h"
#include "kv/sequence.h"

namespace kvship {

class DecodeEngine {
 public:
  // Borrows both; they must outlive the engine.
  DecodeEngine(const Transformer& model, Backend& backend, Arithmetic arithmetic)
      : model_(model), backend_(backend), arithmetic_(ArithmeticFor(model, arithmetic)) {}

  struct Item {
    int32_t token = 0;               // inside the vocabulary
    SequenceCache* cache = nullptr;  // with room in its tail
  };

  // Runs one step. Afterwards each cache has one tail token more, and logits(i) are those of
  // items[i], valid until the next step. On error no cache has changed.
  absl::Status Step(std::span<const Item> items);

  std::span<const float> logits(size_t item) const {
    return {logits_.as<float>() + item * model_.config.vocab_tokens, model_.config.vocab_tokens};
  }

 private:
  absl::Status Layer(size_t layer, std::span<const Item> items);
  // Appends K and V to the tails and attends. qkv [B, (Hq + 2 H) D], Q and K turned.
  absl::Status Attend(size_t layer, std::span<const Item> items, TensorView qkv);

  const Transformer& model_;
  Backend& backend_;
  const Arithmetic arithmetic_;
  // Activations of B rows.
  Buffer residual_;
  Buffer normed_;
  Buffer cos_sin_;
  Buffer qkv_;
  Buffer attended_;
  Buffer gates_;
  Buffer gated_;
  Buffer logits_;
  std::vector<PagedHead> heads_;
  std::vector<size_t> num_heads_;
  std::vector<PageFormat> prefix_formats_;
  std::vector<PageFormat> tail_formats_;
};

}  // namespace kvship
