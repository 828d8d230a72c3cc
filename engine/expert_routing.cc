#include "engine/expert_routing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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

// Not normalized: their sum is returned.
float Softmax(std::span<const float> logits, std::vector<float>& shares) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  shares.clear();
  float sum = 0;
  for (const float logit : logits) {
    shares.push_back(std::exp(logit - largest));
    sum += shares.back();
  }
  return sum;
}

}  // namespace

void ExpertRouting::Clear() {
  for (std::vector<RoutedRow>& rows : rows_) rows.clear();
}

void ExpertRouting::Choose(TensorView logits, size_t first_row) {
  const auto num_experts = static_cast<uint32_t>(rows_.size());
  for (size_t m = 0; m < logits.dims[0]; ++m) {
    float sum = Softmax({logits.f32(m), num_experts}, shares_);
    chosen_.clear();
    float chosen_sum = 0;
    while (chosen_.size() < experts_per_token_) {
      // Comparisons that are false for NaN: it is in the result then, but breaks nothing here.
      uint32_t best = num_experts;
      for (uint32_t expert = 0; expert < num_experts; ++expert) {
        const bool is_free = std::find(chosen_.begin(), chosen_.end(), expert) == chosen_.end();
        if (is_free && (best == num_experts || shares_[expert] > shares_[best])) best = expert;
      }
      chosen_.push_back(best);
      chosen_sum += shares_[best];
    }
    if (normalizes_) sum = chosen_sum;
    for (const uint32_t expert : chosen_) {
      rows_[expert].push_back({static_cast<uint32_t>(first_row + m), shares_[expert] / sum});
    }
  }
}

size_t ExpertRouting::BytesFor(const ModelConfig& config, size_t num_rows) {
  // Vectors that grow by doubling are half empty at worst.
  return 2 * num_rows * config.experts_per_token * sizeof(RoutedRow);
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
