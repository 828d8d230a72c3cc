// Barriers in shared memory that count threads and bytes (mbarriers): how warps of a block that do
// different work hand tiles to each other. A barrier goes through phases, of parity 0, 1, 0, ...;
// one ends when as many threads have arrived as it was made for, and all bytes that they announced.
// Device code; Hopper and later.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace kvship::cuda {

struct SharedBarrier {
  uint64_t state;
};

// By one thread, which then calls PublishToAsyncProxy(); others use the barrier after a barrier of
// the block.
__device__ inline void Init(SharedBarrier& barrier, uint32_t num_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(SharedAddress(&barrier)),
               "r"(num_arrivals)
               : "memory");
}
// What this thread did before is done for those who wait.
__device__ inline void Arrive(SharedBarrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(SharedAddress(&barrier))
               : "memory");
}
// Arrives, and announces bytes of copies that the phase waits for: started after this.
__device__ inline void ArriveAndExpect(SharedBarrier& barrier, uint32_t num_bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(SharedAddress(&barrier)),
      "r"(num_bytes)
      : "memory");
}
// Waits until the phase of that parity has ended: the one under way, or the one before it.
__device__ inline void WaitForPhase(SharedBarrier& barrier, uint32_t parity) {
  uint32_t ended = 0;
  while (ended == 0) {
    asm volatile(
        "{.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;}\n"
        : "=r"(ended)
        : "r"(SharedAddress(&barrier)), "r"(parity)
        : "memory");
  }
}

}  // namespace kvship::cuda
