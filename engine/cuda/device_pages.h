// Puts compact layers into the pages that a sequence has in device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "kv/sequence.h"

namespace kvship::cuda {

// Enqueues copies of a layer's prefix pages, head after head as they cross the wire, from device or
// pinned host memory to the pages of `cache`, whose layer `layer` has begun.
absl::Status WritePrefix(cudaStream_t stream, const SequenceCache& cache, size_t layer,
                         const std::byte* pages);

}  // namespace kvship::cuda
