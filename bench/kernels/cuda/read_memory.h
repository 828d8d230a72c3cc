// What memory-bound kernels are measured against: reading device memory and nothing else.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// Reads `num_bytes`, a multiple of 16, of device memory; writes to `sum` only what keeps the
// compiler from leaving the reads out.
absl::Status ReadMemory(cudaStream_t stream, const std::byte* from, size_t num_bytes,
                        uint32_t* sum);

}  // namespace kvship::cuda
