// Matrices with the same columns, one below the other, seen as one.
#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/weight_format.h"

namespace kvship {

struct StackRow {
  const WeightView* weights;
  size_t row;  // of *weights
};

inline StackRow FindRow(std::span<const WeightView> stacked, size_t row) {
  const WeightView* weights = stacked.data();
  for (; row >= weights->rows; ++weights) row -= weights->rows;
  return {weights, row};
}

inline size_t RowsOf(std::span<const WeightView> stacked) {
  size_t rows = 0;
  for (const WeightView& weights : stacked) rows += weights.rows;
  return rows;
}

// InvalidArgument unless there is a matrix, all have the same columns, and these fill whole blocks.
inline absl::Status CheckStack(std::span<const WeightView> stacked) {
  if (stacked.empty()) return absl::InvalidArgumentError("stacked: no matrices, wanted at least 1");
  for (const WeightView& weights : stacked) {
    if (weights.cols != stacked[0].cols) {
      return absl::InvalidArgumentError(absl::StrCat("stacked: a matrix of ", weights.cols,
                                                     " columns, wanted ", stacked[0].cols,
                                                     " like the first"));
    }
    if (weights.cols % BlockOf(weights.format).num_weights != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("stacked: ", weights.cols, " columns of ", WeightFormatName(weights.format),
                       ", wanted a multiple of ", BlockOf(weights.format).num_weights));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvship
