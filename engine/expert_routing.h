// ExpertRouting is which rows of activations go through which experts of a mixture, and with what
// weights. The router's logits decide row by row, so that a row's experts do not depend on the rows
// beside it. Belongs to one thread.
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
  float weight;  // of the expert's output in the row's
};

class ExpertRouting {
 public:
  explicit ExpertRouting(const ModelConfig& config)
      : experts_per_token_(config.experts_per_token),
        normalizes_(config.normalizes_expert_weights),
        rows_(config.num_experts) {}

  void Clear();

  // Chooses the experts of rows [first_row, first_row + M) by their logits [M, E] f32: those with
  // the largest shares of a softmax over all experts, of equal ones the first. Weights are the
  // shares, divided by their sum where the model normalizes them. Sources: arXiv 2401.04088,
  // section 2.1, whose softmax over the chosen alone is the normalized one; Qwen3's technical
  // report, arXiv 2505.09388, section 2.
  void Choose(TensorView logits, size_t first_row);

  // An expert's rows, in the order in which they were given.
  std::span<const RoutedRow> RowsOf(size_t expert) const { return rows_[expert]; }

  // Most that it holds for `num_rows` rows.
  static size_t BytesFor(const ModelConfig& config, size_t num_rows);

 private:
  const size_t experts_per_token_;
  const bool normalizes_;
  std::vector<std::vector<RoutedRow>> rows_;  // of each expert
  std::vector<float> shares_;                 // of one row
  std::vector<uint32_t> chosen_;              // by one row
};

// out[i] = x[rows[i].row]. x [M, C] f32, out [as many as rows, C] f32.
void GatherRows(Backend& backend, TensorView x, std::span<const RoutedRow> rows, TensorView out);

// out[rows[i].row] += rows[i].weight * x[i]; no row is there twice. x [as many as rows, C] f32, out
// [M, C] f32.
void AddRows(Backend& backend, TensorView x, std::span<const RoutedRow> rows, TensorView out);

}  // namespace kvship
