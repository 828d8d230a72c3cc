// Values that the device writes without a copy from the host: two integers, and random weights, so
// that a model of any size needs no file. Errors: InvalidArgument if sizes, strides or number
// formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// to[0] = a, to[1] = b. Device memory.
absl::Status StoreInts(cudaStream_t stream, int32_t* to, int32_t a, int32_t b);

// Writes f16 or bf16 numbers, uniform in mean +- sqrt(3) * deviation; each is a function of the
// seed and its index alone. Device memory.
absl::Status FillRandom(cudaStream_t stream, DType dtype, void* to, size_t num_elements, float mean,
                        float deviation, uint32_t seed);

}  // namespace kvship::cuda
