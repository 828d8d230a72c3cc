// Times what scores take that are no votes of the prompt's last queries.
#pragma once

#include <cstddef>

#include "bench/kernels/cuda/device_timing.h"

namespace kvship::cuda {

// At Llama-3.1-8B's shape: keydiff's and expected_attention's scores of a layer, and what h2o and
// expected_attention add to the last block of its queries.
void BenchScorers(Bench& bench, size_t tokens);

}  // namespace kvship::cuda
