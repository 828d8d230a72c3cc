#include "engine/query_moments.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "kernels/moments.h"

namespace kvship {
namespace {

// The mean of e^(i theta j) over j in [begin, begin + count), as its real and its imaginary part:
// the turn to the middle, times the Dirichlet kernel sin(count theta / 2) / (count sin(theta / 2)).
std::complex<double> MeanTurnBy(double theta, size_t begin, size_t count) {
  // Whole turns change nothing, and without them the divisor vanishes at 0 alone, where the
  // quotient keeps its digits.
  const double half = std::remainder(theta, 2 * std::numbers::pi) / 2;
  const double n = static_cast<double>(count);
  const double divisor = n * std::sin(half);
  const double length = divisor == 0 ? 1 : std::sin(n * half) / divisor;
  return std::polar(1.0, half * (2 * static_cast<double>(begin) + n - 1)) * length;
}

}  // namespace

std::vector<MeanTurn> MeanTurns(const ModelConfig& config, size_t begin, size_t count) {
  std::vector<MeanTurn> turns(config.head_dim / 2);
  const bool halves = config.rope_pairs == RopePairs::kHalves;
  for (size_t p = 0; p < turns.size(); ++p) {
    MeanTurn& turn = turns[p];
    turn.first = halves ? p : 2 * p;
    turn.second = halves ? p + turns.size() : 2 * p + 1;
    const std::complex<double> mean = MeanTurnBy(config.rope_frequencies[p], begin, count);
    turn.cosine = mean.real() * config.rope_attention_factor;
    turn.sine = mean.imag() * config.rope_attention_factor;
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
