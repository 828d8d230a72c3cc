// Moments of a prompt's queries, and the attention that a key can expect from queries with them.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/backend.h"

namespace kvship {

// Adds the rows x[m, h] to sums of their elements and of their products:
//
//   sums[h, a] += sum over m of x[m, h, a]
//   products[h, a, b] += sum over m of x[m, h, a] * x[m, h, b]         for b >= a
//
// The sums are in double, where a product of floats is exact, row after row. They depend neither on
// the blocks in which rows arrive nor on the number of threads, and a covariance that is a small
// difference of large sums is still accurate. products[h, a, b] for b < a is not defined.
//
// Shapes: x [M, heads, D] f32, sums [heads, D], products [heads, D, D]. Errors: InvalidArgument if
// they do not fit.
absl::Status AddMoments(Backend& backend, TensorView x, std::span<double> sums,
                        std::span<double> products);

// The logarithm of the mean of exp(q.k / sqrt(D)) over queries q ~ N(mean, covariance):
//
//   logits[h, i] = mean[h].k[i] / sqrt(D) + k[i]^T covariance[h] k[i] / (2 D)
//
// Shapes: mean [Hq, D], covariance [Hq, D, D], keys [H, T, D], logits [Hq, T] f32. Query head h
// reads KV head h / (Hq / H). Each number is computed by the same sequence of operations whatever
// the number of threads. Source: expected attention, arXiv 2510.00636, section 3.
// Errors: InvalidArgument if the shapes do not fit.
struct ExpectedLogitsArgs {
  TensorView mean;
  TensorView covariance;
  TensorView keys;
  TensorView logits;
};
absl::Status ExpectedLogits(Backend& backend, const ExpectedLogitsArgs& args);

}  // namespace kvship
