// kernels/cuda/barrier.cuh on the CPU. Whoever arrives lets the others go on first, so that what
// it does too late shows.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "tests/kernels/cuda/emulation/block.h"

namespace kvship::cuda {

// Fresh shared memory is all ones, which is the state of no barrier.
struct SharedBarrier {
  int32_t pending_bytes;
  uint16_t pending_arrivals;
  uint16_t num_arrivals : 15;
  uint16_t parity : 1;  // of the phase under way
};
static_assert(sizeof(SharedBarrier) == sizeof(uint64_t));

inline void RequireBarrier(const SharedBarrier& barrier) {
  emulation::Block::Current().AtSharedAddress(SharedAddress(&barrier), sizeof(barrier));
  Require(barrier.pending_bytes >= 0,
          "a barrier that was not made, or got more bytes than expected");
}
inline void EndPhaseIfComplete(SharedBarrier& barrier) {
  if (barrier.pending_arrivals > 0 || barrier.pending_bytes > 0) return;
  barrier.pending_arrivals = barrier.num_arrivals;
  barrier.parity ^= 1;
}
inline void BytesHaveCome(SharedBarrier& barrier, uint32_t num_bytes) {
  barrier.pending_bytes -= static_cast<int32_t>(num_bytes);
  RequireBarrier(barrier);
  EndPhaseIfComplete(barrier);
}

inline void Init(SharedBarrier& barrier, uint32_t num_arrivals) {
  const auto count = static_cast<uint16_t>(num_arrivals);
  barrier = {.pending_bytes = 0, .pending_arrivals = count, .num_arrivals = count, .parity = 0};
  RequireBarrier(barrier);
  emulation::Block::Current().Wrote(&barrier);
}
inline void ArriveAndExpect(SharedBarrier& barrier, uint32_t num_bytes) {
  RequireBarrier(barrier);
  Require(barrier.pending_arrivals > 0, "more threads arrived than a barrier was made for");
  barrier.pending_bytes += static_cast<int32_t>(num_bytes);
  --barrier.pending_arrivals;
  EndPhaseIfComplete(barrier);
  emulation::Block::Current().Yield();
}
inline void Arrive(SharedBarrier& barrier) { ArriveAndExpect(barrier, 0); }
inline void WaitForPhase(const SharedBarrier& barrier, uint32_t parity) {
  RequireBarrier(barrier);
  emulation::Block::Current().WaitUntil([&] { return barrier.parity != parity; });
}

}  // namespace kvship::cuda
