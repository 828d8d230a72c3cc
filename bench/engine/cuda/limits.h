// What the device reaches in one large product, in attention, and in reading memory: what the
// engine is measured against.
#pragma once

#include <cuda_runtime.h>

#include "absl/status/status.h"

namespace kvship::cuda {

// Prints one JSON object per limit.
absl::Status BenchLimits(cudaStream_t stream);

}  // namespace kvship::cuda
