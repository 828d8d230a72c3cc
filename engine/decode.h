// DecodeEngine is the CPU's Decoder. A sequence's logits do not depend on the rest of the batch.
// Belongs to one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "engine/decoder.h"
#include "engine/expert_routing.h"
#include "engine/transformer.h"
#include "kernels/backend.h"
#include "kv/sequence.h"

namespace kvship {

class DecodeEngine final : public Decoder {
 public:
  // Borrows both; they must outlive the engine.
  DecodeEngine(const Transformer& model, Backend& backend, Arithmetic arithmetic)
      : model_(model),
        backend_(backend),
        arithmetic_(ArithmeticFor(model, arithmetic)),
        routing_(model.config) {}

  // The CPU decodes every plan.
  absl::Status CheckPlan(const KvPlan&) const override { return absl::OkStatus(); }

  absl::Status Step(std::span<const Item> items) override;

  std::span<const float> logits(size_t item) const override {
    return {logits_.as<float>() + item * model_.config.vocab_tokens, model_.config.vocab_tokens};
  }
  int32_t drawn(size_t item) const override { return drawn_[item]; }

 private:
  absl::Status Layer(size_t layer, std::span<const Item> items);
  // Appends K and V to the tails and attends. qkv [B, (Hq + 2 H) D], Q and K rotated.
  absl::Status Attend(size_t layer, std::span<const Item> items, TensorView qkv);
  // residual += the layer's feed-forward network of x. Both [B, C].
  absl::Status FeedForward(const LayerWeights& w, TensorView x, TensorView residual);
  // out = one network of x, or += with `accumulate`.
  absl::Status Expert(const FeedForwardWeights& w, TensorView x, TensorView out, bool accumulate);

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
  // For a mixture of experts.
  ExpertRouting routing_;
  Buffer router_logits_;
  Buffer gathered_;
  Buffer expert_out_;
  std::vector<int32_t> drawn_;  // of the last step's items, if they want no logits
  std::vector<PagedHead> heads_;
  std::vector<size_t> num_heads_;
  std::vector<PageFormat> prefix_formats_;
  std::vector<PageFormat> tail_formats_;
};

}  // namespace kvship
