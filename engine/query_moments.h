// QueryMoments accumulates the moments of one layer's queries before RoPE, and predicts them for
// the positions after the prompt. Belongs to one thread.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "engine/model_config.h"
#include "kernels/backend.h"

namespace kvship {

// The mean of the rotations of one pair of elements. It is no rotation itself: it shrinks vectors.
struct MeanTurn {
  size_t first = 0;  // the pair's elements
  size_t second = 0;
  double cosine = 0;
  double sine = 0;
};

// For each pair, the mean of the RoPE matrices over the positions [begin, begin + count), at least
// one, times the model's attention factor: [D / 2]. Takes constant time in `count`.
std::vector<MeanTurn> MeanTurns(const ModelConfig& config, size_t begin, size_t count);

class QueryMoments {
 public:
  QueryMoments() = default;
  // Predicts for the positions [future_begin, future_begin + future_tokens).
  QueryMoments(const ModelConfig& config, size_t future_begin, size_t future_tokens);

  // Resets for the next layer.
  void Clear();

  // Adds queries [M, Hq, D] f32, after QK norm where the model has it, before RoPE.
  absl::Status Add(Backend& backend, TensorView queries);

  // Writes the moments at the future positions: mean = R mu [Hq, D] and covariance = R Sigma R^T
  // [Hq, D, D] f32. R is the mean of their RoPE matrices; mu and Sigma (centred, divided by the
  // number of queries) are those of the queries added, at least one. Source: expected attention,
  // arXiv 2510.00636, section 3.
  void Turned(Backend& backend, TensorView mean, TensorView covariance) const;

  // Bytes that one instance holds.
  static size_t BytesFor(const ModelConfig& config) {
    const size_t query = config.num_query_heads * config.head_dim;
    return query * (1 + config.head_dim) * sizeof(double);
  }

 private:
  // Applies the mean rotation to the vector x[0], x[stride], ...
  void Turn(size_t stride, double* x) const;

  std::vector<MeanTurn> turns_;  // [D / 2]
  size_t num_queries_ = 0;
  std::vector<double> sums_;      // [Hq, D]
  std::vector<double> products_;  // [Hq, D, D], its upper triangle
};

}  // namespace kvship
