#include "engine/feed_forward.h"

#include <array>

#include "base/status_macros.h"
#include "engine/activations.h"
#include "kernels/elementwise.h"

namespace kvship {

absl::Status FeedForward::Unpack(size_t layer, size_t expert) {
  if (layer_ == layer && expert_ == expert) return absl::OkStatus();
  layer_ = expert_ = SIZE_MAX;
  const FeedForwardWeights& w = model_.layers[layer].experts[expert];
  const std::array<WeightView, 2> gate_up = {w.gate, w.up};
  RETURN_IF_ERROR(UnpackWeights(backend_, gate_up, arithmetic_, &gate_up_));
  RETURN_IF_ERROR(UnpackWeights(backend_, {&w.down, 1}, arithmetic_, &down_));
  layer_ = layer;
  expert_ = expert;
  return absl::OkStatus();
}

absl::Status FeedForward::Multiply(TensorView x, TensorView out, bool accumulate) {
  const size_t rows = x.dims[0], f = model_.config.ffn_dim;
  const TensorView gates = ActivationRows(gates_, rows, 2 * f);
  RETURN_IF_ERROR(Product(backend_, x, gate_up_, gates));
  const TensorView gated = ActivationRows(gated_, rows, f);
  RETURN_IF_ERROR(SiluMul(backend_, gates, gated));
  return Product(backend_, gated, down_, out, accumulate);
}

absl::Status FeedForward::Add(TensorView x, TensorView residual) {
  return Multiply(x, residual, /*accumulate=*/true);
}

absl::Status FeedForward::AddRouted(TensorView x, std::span<const RoutedRow> rows,
                                    TensorView residual) {
  const size_t c = model_.config.hidden_dim;
  const TensorView gathered = ActivationRows(gathered_, rows.size(), c);
  GatherRows(backend_, x, rows, gathered);
  const TensorView out = ActivationRows(expert_out_, rows.size(), c);
  RETURN_IF_ERROR(Multiply(gathered, out, /*accumulate=*/false));
  AddRows(backend_, out, rows, residual);
  return absl::OkStatus();
}

}  // namespace kvship
