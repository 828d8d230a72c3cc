// ExpertRouting assigns rows of activations to experts of a mixture, with weights. A row's experts
// depend on its own router logits alone, not on the rows beside it. Belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor_view.h"
#include "engine/model_config.h"
#include "kernels/backend.h"

namespace kvship {

struct RoutedRow {
  uint32_t row;
  uint32_t expert;
  float weight;  // of the expert's output in the row's sum
};

class ExpertRouting {
 public:
  explicit ExpertRouting(const ModelConfig& config)
      : num_experts_(config.num_experts),
        experts_per_token_(config.experts_per_token),
        normalizes_(config.normalizes_expert_weights) {}

  // Allocates memory for `num_rows` rows at a time; no more is allocated until that is exceeded.
  void Reserve(size_t num_rows);
  static size_t BytesFor(const ModelConfig& config, size_t num_rows);

  void Clear() { chosen_.clear(); }

  // Chooses the experts of rows [first_row, first_row + M) by their logits [M, E] f32: those with
  // the largest shares of a softmax over all experts, ties to the first. Weights are the shares,
  // divided by their sum if the model normalizes them; NaN if a logit is. Sources: arXiv
  // 2401.04088, section 2.1, whose softmax over the chosen experts equals the normalized one;
  // Qwen3's technical report, arXiv 2505.09388, section 2.
  void Choose(Backend& backend, TensorView logits, size_t first_row);

  // All rows routed since Clear, grouped by expert, in the order in which they were given within
  // each expert. Valid until the next call.
  std::span<const RoutedRow> ByExpert();

 private:
  void ChooseRow(const float* logits, uint32_t row, RoutedRow* chosen) const;

  const size_t num_experts_;
  const size_t experts_per_token_;
  const bool normalizes_;
  std::vector<RoutedRow> chosen_;
  std::vector<RoutedRow> by_expert_;
};

// The rows of the first expert, at most `most_rows`. `rows` are grouped by expert.
std::span<const RoutedRow> RowsOfFirstExpert(std::span<const RoutedRow> rows, size_t most_rows);

// out[i] = x[rows[i].row]. x [M, C] f32, out [as many as rows, C] f32.
void GatherRows(Backend& backend, TensorView x, std::span<const RoutedRow> rows, TensorView out);

// out[rows[i].row] += rows[i].weight * x[i]; no row occurs twice. x [as many as rows, C] f32, out
// [M, C] f32.
void AddRows(Backend& backend, TensorView x, std::span<const RoutedRow> rows, TensorView out);

}  // namespace kvship
