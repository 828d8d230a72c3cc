// Moments of a prompt's queries before RoPE, on the GPU: AddMoments() of kernels/moments.h on
// activations in 16 bits, and the moments expected of queries at future positions. Errors:
// InvalidArgument if sizes, strides or number formats are not as below, else those of Launch() in
// launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/elementwise.h"

namespace kvship::cuda {

// Adds the rows q[m, h] to sums of their elements and of their products:
//
//   sums[h, a] += sum over m of q[m, h, a]
//   products[h, a, b] += sum over m of q[m, h, a] * q[m, h, b]         for b >= a
//
// If `norm` is given, each q[m, h] first becomes q / sqrt(mean(q^2) + epsilon) * norm, in float32
// (Qwen3). The sums are in double, where a product of floats is exact, row after row: they equal
// the CPU's of the same rows to the bit, and do not depend on the blocks in which rows arrive.
// products[h, a, b] for b < a is not defined. Memory: device memory, q and norm aligned to 16
// bytes; D is 64 or 128.
struct AddQueryMomentsArgs {
  const void* q = nullptr;     // [M, Hq, D] of dtype, rows q_row_stride elements apart
  const void* norm = nullptr;  // [D] of dtype; or null
  double* sums = nullptr;      // [Hq, D]
  double* products = nullptr;  // [Hq, D, D]
  DType dtype = DType::kBf16;
  size_t num_rows = 0;         // M
  size_t num_query_heads = 0;  // Hq
  size_t head_dim = 0;         // D
  size_t q_row_stride = 0;     // a multiple of 8, at least Hq * D
  float norm_epsilon = 1e-5f;
};
absl::Status AddQueryMoments(cudaStream_t stream, const AddQueryMomentsArgs& args);

// mean[h] = R mu and covariance[h] = R Sigma R^T. mu and Sigma (centred, divided by the number of
// queries) are those of the sums above; R is the mean of the RoPE matrices of the future positions,
// given in `turns` as a cosine and a sine per pair of elements. In double, rounded at the end.
// Source: expected attention, arXiv 2510.00636, section 3. Memory: device memory.
struct TurnMomentsArgs {
  const double* sums = nullptr;      // [Hq, D]
  const double* products = nullptr;  // [Hq, D, D]
  const double* turns = nullptr;     // [D / 2, 2]
  float* mean = nullptr;             // [Hq, D]
  float* covariance = nullptr;       // [Hq, D, D]
  RopePairs pairs = RopePairs::kHalves;
  size_t num_queries = 0;
  size_t num_query_heads = 0;  // Hq
  size_t head_dim = 0;         // D, even
};
absl::Status TurnMoments(cudaStream_t stream, const TurnMomentsArgs& args);

}  // namespace kvship::cuda
