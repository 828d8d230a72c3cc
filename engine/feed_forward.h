// FeedForward runs a layer's feed-forward network, or one expert of it, on many rows of
// activations. It unpacks an expert's weights when asked to and keeps those of the last one, and
// scratch memory; one serves all runs of a PrefillEngine. Belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "base/tensor_view.h"
#include "engine/expert_routing.h"
#include "engine/transformer.h"
#include "kernels/backend.h"
#include "kernels/product.h"

namespace kvship {

class FeedForward {
 public:
  // Borrows both; they must outlive it.
  FeedForward(const Transformer& model, Backend& backend, Arithmetic arithmetic)
      : model_(model), backend_(backend), arithmetic_(arithmetic) {}

  // Makes the weights of a layer's expert those at hand; expert 0 where there is no choice.
  absl::Status Unpack(size_t layer, size_t expert);

  // residual += down(silu(gate(x)) * up(x)). x, residual [M, C] f32.
  absl::Status Add(TensorView x, TensorView residual);

  // The same for some of the rows, times their weights.
  absl::Status AddRouted(TensorView x, std::span<const RoutedRow> rows, TensorView residual);

 private:
  absl::Status Multiply(TensorView x, TensorView out, bool accumulate);

  const Transformer& model_;
  Backend& backend_;
  const Arithmetic arithmetic_;
  size_t layer_ = SIZE_MAX, expert_ = SIZE_MAX;  // whose weights are at hand
  ProductWeights gate_up_;
  ProductWeights down_;
  // Activations of M rows.
  Buffer gates_;       // [M, 2 F]
  Buffer gated_;       // [M, F]
  Buffer gathered_;    // [M, C]
  Buffer expert_out_;  // [M, C]
};

}  // namespace kvship
