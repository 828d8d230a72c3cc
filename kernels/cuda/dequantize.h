// Unpacks weight matrices on the GPU: Dequantize() of kernels/product.h, rounded to a 16-bit type.
// Errors: InvalidArgument if sizes, strides or number formats are not as below, else those of
// Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/weight_format.h"

namespace kvship::cuda {

// out[i] = weight i as a float, rounded to dtype: bit for bit what the CPU's float rounds to. A
// matrix is its rows one after the other. Memory: device memory, `packed` aligned to 4 bytes, `out`
// to 16.
struct DequantizeArgs {
  const std::byte* packed = nullptr;  // whole blocks of `format`
  void* out = nullptr;                // [num_weights] of dtype
  WeightFormat format = WeightFormat::kF32;
  DType dtype = DType::kBf16;
  size_t num_weights = 0;  // a multiple of 8 and of the format's block
};
absl::Status Dequantize(cudaStream_t stream, const DequantizeArgs& args);

}  // namespace kvship::cuda
