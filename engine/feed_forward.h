// FeedForward runs a layer's feed-forward network, or one expert of it, on many rows of
// activations. It holds the unpacked weights of one expert at a time, and scratch memory; one
// instance serves all runs of a PrefillEngine. Belongs to one thread.
#pragma once

#include <cstddef>
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

  // Unpacks the weights of a layer's expert for the calls below; expert 0 in dense models.
  absl::Status Unpack(size_t layer, size_t expert);

  // residual += down(silu(gate(x)) * up(x)). x, residual [M, C] f32.
  absl::Status Add(TensorView x, TensorView residual);

  // As Add, for the rows in `rows`, each times its weight.
  absl::Status AddRouted(TensorView x, std::span<const RoutedRow> rows, TensorView residual);

 private:
  absl::Status Multiply(TensorView x, TensorView out, bool accumulate);

  const Transformer& model_;
  Backend& backend_;
  const Arithmetic arithmetic_;
  size_t layer_ = SIZE_MAX, expert_ = SIZE_MAX;  // whose weights are unpacked
  ProductWeights gate_up_;
  ProductWeights down_;
  // Activations of M rows.
  Buffer gates_;       // [M, 2 F]
  Buffer gated_;       // [M, F]
  Buffer gathered_;    // [M, C]
  Buffer expert_out_;  // [M, C]
};

}  // namespace kvship
