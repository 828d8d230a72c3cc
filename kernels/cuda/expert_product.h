// Products of a few rows with the weights of each expert of a mixture, on the GPU and without the
// host: device memory says which experts have rows. Weights are read once per 32 rows of an expert,
// for decode steps.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/cuda/experts.h"

namespace kvship::cuda {

// out[p, n] = sum over k of x[p, k] weights[e, n, k] for the rows p of each run's expert e; other
// rows stay as they are. Sums are float32, in an order that depends on K alone: a row's bits do
// not depend on the rows beside it. Memory: device memory, aligned to 16 bytes. Errors:
// InvalidArgument if sizes or number formats are not as below, else those of Launch() in launch.h.
struct ExpertProductArgs {
  const void* x = nullptr;           // [P, K] of dtype
  const void* weights = nullptr;     // [E, N, K] of dtype
  const ExpertRows* runs = nullptr;  // from GroupByExpert, with rows below P
  void* out = nullptr;               // [P, N] of dtype
  DType dtype = DType::kBf16;
  size_t num_runs = 0;  // how many of them are read
  size_t rows = 0;      // N, a multiple of 8
  size_t cols = 0;      // K, a multiple of 8
};
absl::Status ExpertProduct(cudaStream_t stream, const ExpertProductArgs& args);

}  // namespace kvship::cuda
