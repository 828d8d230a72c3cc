// Values that the device writes by itself: two integers without a copy from the host, and random
// weights, so that a model of any size needs no file. Errors: InvalidArgument if sizes, strides or
// number formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// to[0] = a, to[1] = b. Device memory.
absl::Status StoreInts(cudaStream_t stream, int32_t* to, int32_t a, int32_t b);

// Numbers of f16 or bf16 with mean `mean`, evenly spread over mean +- sqrt(3) * deviation: a
// function of the seed and the index alone. Device memory.
absl::Status FillRandom(cudaStream_t stream, DType dtype, void* to, size_t num_elements, float mean,
                        float deviation, uint32_t seed);

}  // namespace kvship::cuda
