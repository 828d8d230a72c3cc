// Times the votes of a prompt's last queries, and what makes a compact layer of them.
#pragma once

#include <cstddef>

#include "bench/kernels/cuda/device_timing.h"

namespace kvship::cuda {

struct Heads {
  size_t query, kv;
};
inline constexpr Heads kGrouped = {32, 8}, kUngrouped = {32, 32};

void BenchVotes(Bench& bench, Heads heads, size_t tokens, size_t window);

// The parts of compression after the votes, and the whole.
void BenchCompression(Bench& bench, size_t tokens, size_t kept);

// All scores equal: every thread counts into the same bin.
void BenchTies(Bench& bench, size_t tokens);

}  // namespace kvship::cuda
