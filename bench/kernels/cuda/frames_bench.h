// Times what frames take that go from GPU to GPU.
#pragma once

#include <cstddef>

#include "bench/kernels/cuda/device_timing.h"

namespace kvship::cuda {

// A layer of Llama-3.1-8B's shape with `kept` tokens per head, laid into frames; and the checksums
// of frames that have arrived.
void BenchFrames(Bench& bench, size_t kept);

}  // namespace kvship::cuda
