// Copies of boxes of a tensor into shared memory, by an engine beside the threads (Hopper's TMA).
// Device code; Hopper and later.
#pragma once

#include "kernels/cuda/barrier.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"

namespace kvship::cuda {

// Starts the copy of the box that begins at [i2, i1, i0] to the panel rows at `shared`, by one
// thread. When it has ended the barrier counts the bytes of the whole box, those past the tensor's
// end too; nobody else reads or writes there before.
__device__ inline void CopyBoxAsync(void* shared, const TensorMap& tensor, int i0, int i1, int i2,
                                    SharedBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];\n" ::"r"(SharedAddress(shared)),
      "l"(&tensor), "r"(i0), "r"(i1), "r"(i2), "r"(SharedAddress(&barrier))
      : "memory");
}

}  // namespace kvship::cuda
