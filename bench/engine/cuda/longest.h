// The longest prompt that one GPU holds, read and decoded there, with the full cache and with a
// compressed one.
#pragma once

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "engine/cuda/device_transformer.h"
#include "kv/compression_options.h"

namespace kvship::cuda {

// Prints one JSON object. A prompt fits if all that its reading takes, and the pages of its cache,
// can be allocated at a time beside the weights, and its first block runs.
absl::Status BenchLongest(const DeviceTransformer& model, cudaStream_t stream,
                          const CompressionOptions& compression);

}  // namespace kvship::cuda
