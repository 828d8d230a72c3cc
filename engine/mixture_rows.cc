#include "engine/mixture_rows.h"

#include <algorithm>
#include <span>

#include "base/status_macros.h"

namespace kvship {

MixtureRows::MixtureRows(const ModelConfig& config, size_t num_rows)
    : config_(config), routing_(config), normed_(num_rows * config.hidden_dim * sizeof(float)) {}

void MixtureRows::Clear() {
  routing_.Clear();
  num_chosen_ = num_done_ = expert_ = first_row_ = 0;
}

TensorView MixtureRows::Normed(size_t begin, size_t end) {
  const size_t hidden = config_.hidden_dim;
  return TensorView(normed_.as<float>() + begin * hidden, {end - begin, hidden});
}

void MixtureRows::Choose(TensorView logits, size_t begin) {
  routing_.Choose(logits, begin);
  num_chosen_ += logits.dims[0] * config_.experts_per_token;
}

absl::Status MixtureRows::Step(FeedForward& feed_forward, size_t layer, size_t most_rows,
                               TensorView residual) {
  while (first_row_ == routing_.RowsOf(expert_).size()) {
    ++expert_;
    first_row_ = 0;
  }
  std::span<const RoutedRow> rows = routing_.RowsOf(expert_).subspan(first_row_);
  rows = rows.first(std::min(rows.size(), most_rows));
  RETURN_IF_ERROR(feed_forward.Unpack(layer, expert_));
  RETURN_IF_ERROR(feed_forward.AddRouted(Normed(0, residual.dims[0]), rows, residual));
  first_row_ += rows.size();
  num_done_ += rows.size();
  return absl::OkStatus();
}

double MixtureRows::fraction() const {
  return num_done_ == 0 ? 0 : static_cast<double>(num_done_) / static_cast<double>(num_chosen_);
}

size_t MixtureRows::BytesFor(const ModelConfig& config, size_t num_rows) {
  return num_rows * config.hidden_dim * sizeof(float) + ExpertRouting::BytesFor(config, num_rows);
}

}  // namespace kvship
