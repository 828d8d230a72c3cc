// Times what a step of decode does in a mixture of experts.
#pragma once

#include <cstddef>

#include "bench/kernels/cuda/device_timing.h"

namespace kvship::cuda {

// `num_tokens` through the experts of a layer of Qwen3-30B-A3B's shape: choice and grouping, and
// the two products. Tokens go to as many experts as there are, so that bytes are those of min(E, M
// K).
void BenchExperts(Bench& bench, size_t num_tokens);

}  // namespace kvship::cuda
