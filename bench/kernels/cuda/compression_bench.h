// Times the votes of a prompt's last queries, and what makes a compact layer of them.
#pragma once

#include <cstddef>

#include "bench/kernels/cuda/device_timing.h"

namespace kvship::cuda {

struct Heads {
  size_t query, kv;
};
inline constexpr Heads kGrouped = {32, 8}, kUngrouped = {32, 32};

struct VotesShape {
  Heads heads;
  size_t tokens, window;
};
inline constexpr VotesShape kVotes[] = {
    {kGrouped, size_t{16} << 10, 32},  {kGrouped, size_t{128} << 10, 32},
    {kGrouped, size_t{1} << 20, 32},   {kGrouped, size_t{128} << 10, 16},
    {kGrouped, size_t{128} << 10, 64}, {kUngrouped, size_t{128} << 10, 32}};

void BenchVotes(Bench& bench, const VotesShape& shape);
// With keys by TMA, where the device is a Hopper.
void BenchVotesTma(Bench& bench, const VotesShape& shape);

// The parts of compression after the votes, and the whole.
void BenchCompression(Bench& bench, size_t tokens, size_t kept);

// All scores equal: every thread counts into the same bin.
void BenchTies(Bench& bench, size_t tokens);

}  // namespace kvship::cuda
