#include "engine/expert_routing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

namespace kvship {
namespace {

// A task moves some hundred kilobytes at most, against a fraction of a microsecond to hand it out.
constexpr size_t kRowsPerTask = 16;

template <class Body>
void ForEachRow(Backend& backend, size_t num_rows, const Body& body) {
  const size_t num_tasks = (num_rows + kRowsPerTask - 1) / kRowsPerTask;
  backend.threads().ParallelFor(num_tasks, [&](size_t task) {
    const size_t end = std::min(num_rows, (task + 1) * kRowsPerTask);
    for (size_t i = task * kRowsPerTask; i < end; ++i) body(i);
  });
}

}  // namespace

void ExpertRouting::Reserve(size_t num_rows) {
  chosen_.reserve(num_rows * experts_per_token_);
  by_expert_.reserve(num_rows * experts_per_token_);
}

size_t ExpertRouting::BytesFor(const ModelConfig& config, size_t num_rows) {
  return 2 * num_rows * config.experts_per_token * sizeof(RoutedRow);
}

void ExpertRouting::Choose(Backend& backend, TensorView logits, size_t first_row) {
  const size_t num_rows = logits.dims[0], before = chosen_.size();
  chosen_.resize(before + num_rows * experts_per_token_);
  ForEachRow(backend, num_rows, [&](size_t m) {
    ChooseRow(logits.f32(m), static_cast<uint32_t>(first_row + m),
              chosen_.data() + before + m * experts_per_token_);
  });
}

void ExpertRouting::ChooseRow(const float* logits, uint32_t row, RoutedRow* chosen) const {
  constexpr float kTaken = -1;  // no share is
  std::array<float, ModelConfig::kMostExperts> shares;
  const float largest = *std::max_element(logits, logits + num_experts_);
  float sum = 0, chosen_sum = 0;
  for (size_t expert = 0; expert < num_experts_; ++expert) {
    shares[expert] = std::exp(logits[expert] - largest);
    sum += shares[expert];
  }
  for (size_t i = 0; i < experts_per_token_; ++i) {
    // Comparisons with NaN are false: it may be chosen, and breaks nothing here.
    size_t best = num_experts_;
    for (size_t expert = 0; expert < num_experts_; ++expert) {
      const bool is_better =
          best == num_experts_ ? shares[expert] != kTaken : shares[expert] > shares[best];
      if (is_better) best = expert;
    }
    chosen[i] = {row, static_cast<uint32_t>(best), shares[best]};
    chosen_sum += shares[best];
    shares[best] = kTaken;
  }
  if (normalizes_ && !std::isnan(sum)) sum = chosen_sum;
  for (size_t i = 0; i < experts_per_token_; ++i) chosen[i].weight /= sum;
}

std::span<const RoutedRow> ExpertRouting::ByExpert() {
  std::array<size_t, ModelConfig::kMostExperts + 1> ends = {};  // of the expert before
  for (const RoutedRow& row : chosen_) ++ends[row.expert + 1];
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  by_expert_.resize(chosen_.size());
  for (const RoutedRow& row : chosen_) by_expert_[ends[row.expert]++] = row;
  return by_expert_;
}

std::span<const RoutedRow> RowsOfFirstExpert(std::span<const RoutedRow> rows, size_t most_rows) {
  size_t count = 0;
  while (count < std::min(rows.size(), most_rows) && rows[count].expert == rows[0].expert) ++count;
  return rows.first(count);
}

void GatherRows(Backend& backend, TensorView x, std::span<const RoutedRow> rows, TensorView out) {
  ForEachRow(backend, rows.size(), [&](size_t i) {
    std::memcpy(out.f32(i), x.f32(rows[i].row), x.dims[1] * sizeof(float));
  });
}

void AddRows(Backend& backend, TensorView x, std::span<const RoutedRow> rows, TensorView out) {
  ForEachRow(backend, rows.size(), [&](size_t i) {
    const float* from = x.f32(i);
    float* to = out.f32(rows[i].row);
    const float weight = rows[i].weight;
    for (size_t c = 0; c < x.dims[1]; ++c) to[c] += weight * from[c];
  });
}

}  // namespace kvship
