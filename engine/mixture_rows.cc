#include "engine/mixture_rows.h"

#include "base/status_macros.h"

namespace kvship {

MixtureRows::MixtureRows(const ModelConfig& config, size_t num_rows)
    : config_(config), routing_(config), normed_(num_rows * config.hidden_dim * sizeof(float)) {
  routing_.Reserve(num_rows);
}

void MixtureRows::Clear() {
  routing_.Clear();
  rows_ = {};
  num_done_ = 0;
}

TensorView MixtureRows::Normed(size_t begin, size_t end) {
  const size_t hidden = config_.hidden_dim;
  return TensorView(normed_.as<float>() + begin * hidden, {end - begin, hidden});
}

void MixtureRows::Choose(Backend& backend, TensorView logits, size_t begin) {
  routing_.Choose(backend, logits, begin);
}

absl::Status MixtureRows::Step(FeedForward& feed_forward, size_t layer, size_t most_rows,
                               TensorView residual) {
  const auto rows = RowsOfFirstExpert(rows_.subspan(num_done_), most_rows);
  RETURN_IF_ERROR(feed_forward.Unpack(layer, rows.front().expert));
  RETURN_IF_ERROR(feed_forward.AddRouted(Normed(0, residual.dims[0]), rows, residual));
  num_done_ += rows.size();
  return absl::OkStatus();
}

double MixtureRows::fraction() const {
  return rows_.empty() ? 0 : static_cast<double>(num_done_) / static_cast<double>(rows_.size());
}

size_t MixtureRows::BytesFor(const ModelConfig& config, size_t num_rows) {
  return num_rows * config.hidden_dim * sizeof(float) + ExpertRouting::BytesFor(config, num_rows);
}

}  // namespace kvship
