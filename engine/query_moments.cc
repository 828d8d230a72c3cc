#include "engine/query_moments.h"

#include <algorithm>
#include <cmath>

#include "kernels/moments.h"

namespace kvship {

std::vector<MeanTurn> MeanTurns(const ModelConfig& config, size_t begin, size_t count) {
  std::vector<MeanTurn> turns(config.head_dim / 2);
  const bool halves = config.rope_pairs == RopePairs::kHalves;
  for (size_t p = 0; p < turns.size(); ++p) {
    MeanTurn& turn = turns[p];
    turn.first = halves ? p : 2 * p;
    turn.second = halves ? p + turns.size() : 2 * p + 1;
    for (size_t i = begin; i < begin + count; ++i) {
      const double angle = static_cast<double>(i) * config.rope_frequencies[p];
      turn.cosine += std::cos(angle) / static_cast<double>(count);
      turn.sine += std::sin(angle) / static_cast<double>(count);
    }
  }
  return turns;
}

QueryMoments::QueryMoments(const ModelConfig& config, size_t future_begin, size_t future_tokens)
    : turns_(MeanTurns(config, future_begin, future_tokens)),
      sums_(config.num_query_heads * config.head_dim),
      products_(sums_.size() * config.head_dim) {}

void QueryMoments::Turn(size_t stride, double* x) const {
  for (const MeanTurn& turn : turns_) {
    double& a = x[turn.first * stride];
    double& b = x[turn.second * stride];
    const double turned = a * turn.cosine - b * turn.sine;
    b = a * turn.sine + b * turn.cosine;
    a = turned;
  }
}

void QueryMoments::Clear() {
  num_queries_ = 0;
  std::fill(sums_.begin(), sums_.end(), 0.0);
  std::fill(products_.begin(), products_.end(), 0.0);
}

absl::Status QueryMoments::Add(Backend& backend, TensorView queries) {
  num_queries_ += queries.dims[0];
  return AddMoments(backend, queries, sums_, products_);
}

void QueryMoments::Turned(Backend& backend, TensorView mean, TensorView covariance) const {
  const size_t d = mean.dims[1];
  const double share = 1.0 / static_cast<double>(num_queries_);
  backend.threads().ParallelFor(mean.dims[0], [&](size_t head) {
    std::vector<double> mu(d);
    for (size_t a = 0; a < d; ++a) mu[a] = sums_[head * d + a] * share;
    std::vector<double> sigma(d * d);
    for (size_t a = 0; a < d; ++a) {
      for (size_t b = a; b < d; ++b) {
        sigma[a * d + b] = products_[(head * d + a) * d + b] * share - mu[a] * mu[b];
        sigma[b * d + a] = sigma[a * d + b];
      }
    }
    Turn(1, mu.data());
    for (size_t a = 0; a < d; ++a) Turn(1, sigma.data() + a * d);  // Sigma R^T
    for (size_t b = 0; b < d; ++b) Turn(d, sigma.data() + b);      // R (Sigma R^T)
    std::copy(mu.begin(), mu.end(), mean.f32(head));
    std::copy(sigma.begin(), sigma.end(), covariance.f32(head));
  });
}

}  // namespace kvship
