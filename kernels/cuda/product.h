// Matrix products of activations and weights on the GPU, by cuBLASLt.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "base/tensor_view.h"
#include "kernels/cuda/buffer.h"

namespace kvship::cuda {

// out[m, n] = sum over k of x[m, k] weights[n, k], plus bias[n] if given, added to the contents of
// out with `accumulate`. Sums are float32. Memory: device memory, aligned to 16 bytes; K is a
// multiple of 8.
struct ProductArgs {
  const void* x = nullptr;        // [M, K] of dtype
  const void* weights = nullptr;  // [N, K] of dtype
  const void* bias = nullptr;     // [N] of out_dtype
  void* out = nullptr;            // [M, N] of out_dtype
  DType dtype = DType::kBf16;
  DType out_dtype = DType::kBf16;  // dtype, or f32
  size_t num_tokens = 0;           // M
  size_t rows = 0;                 // N
  size_t cols = 0;                 // K
  bool accumulate = false;
};

// FailedPrecondition, naming the library, if cuBLASLt is missing.
absl::Status FindCublasLt();

// Products runs products with one algorithm per shape, chosen at the first use, so that equal calls
// give equal bits; rows may differ in the last bits between values of M. One stream at a time:
// products share a workspace.
class Products {
 public:
  // Errors: as FindCublasLt, ResourceExhausted if the device has no room.
  static absl::StatusOr<std::unique_ptr<Products>> Create();
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // InvalidArgument for sizes or formats other than above, Unimplemented if cuBLASLt has no
  // algorithm for them, Internal for anything else that it refuses.
  absl::Status Run(cudaStream_t stream, const ProductArgs& args);

 private:
  struct Plan;
  // M, N, K, the types, whether it accumulates, whether there is a bias, and how addresses are
  // aligned.
  using Key = std::tuple<size_t, size_t, size_t, DType, DType, bool, bool, uint32_t>;

  Products() = default;
  absl::StatusOr<const Plan*> PlanFor(const ProductArgs& args);

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace kvship::cuda
