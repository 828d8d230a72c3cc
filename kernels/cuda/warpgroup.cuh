// Matrix products of a warpgroup (four warps) straight from shared memory: Hopper's wgmma. Device
// code for sm_90a alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/float16.h"
#include "kernels/cuda/ptx.cuh"

namespace kvship::cuda {

// An operand in shared memory lies as panels of 64 columns (128 bytes), row after row; in each
// group of eight rows the 16-byte chunks of row r are in the places c ^ r (128-byte swizzle).
// Panels begin at multiples of 1024 bytes. `row` and `chunk` count from the operand's first
// element.
constexpr size_t kPanelElements = 64;
constexpr size_t PanelOffset(size_t panel_rows, size_t row, size_t chunk) {
  const size_t panel = chunk / 8, within = chunk % 8;
  return (panel * panel_rows + row) * kPanelElements + (within ^ (row & 7)) * 8;
}

// Names 16 columns of a panel to the tensor cores: `start` is the address of their first chunk in
// the panel's first row, before the swizzle.
__device__ inline uint64_t OperandOf(uint32_t start) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 >> 4} << 32;  // from eight rows to the next eight
  constexpr uint64_t kUnused = uint64_t{1} << 16;              // of swizzled rows of one panel
  return kSwizzle128 | kGroupBytes | kUnused | (start & 0x3ffffu) >> 4;
}

// What this thread wrote to shared memory is visible to the tensor cores after the next barrier.
__device__ inline void PublishToTensorCores() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ inline void BeginProducts() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
// Ends a group of products, which go on by themselves.
__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Waits until at most `kPending` committed groups are under way; then c, of one that has ended, may
// be read.
template <int kPending, int kProducts>
__device__ inline void WaitForProducts(float (&c)[kProducts][32]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
#pragma unroll
  for (int product = 0; product < kProducts; ++product) {
#pragma unroll
    for (float& x : c[product]) asm volatile("" : "+f"(x)::"memory");  // not read before
  }
}

// c (+)= a b^T with a [64, 16], b [64, 16] of T; c [64, 64] f32 in the warpgroup's registers: warp
// w has rows 16 w to 16 w + 15, as accumulators of m16n8k16 column after column. Adds where
// `accumulate`.
template <class T>
__device__ inline void MultiplyAdd64(float (&c)[32], uint64_t a, uint64_t b, bool accumulate);

template <>
__device__ inline void MultiplyAdd64<bf16>(float (&c)[32], uint64_t a, uint64_t b,
                                           bool accumulate) {
  asm volatile(
      "{.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
template <>
__device__ inline void MultiplyAdd64<f16>(float (&c)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

}  // namespace kvship::cuda
