// The instructions that C++ has no words for: asynchronous copies to shared memory, matrix products
// of a warp, fast exponentials and conversions. Device code; sm_80 and later.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/float16.h"

namespace kvship::cuda {

// The shared memory that the launch asked for.
__device__ inline std::byte* DynamicSharedMemory() {
  extern __shared__ __align__(128) std::byte dynamic_shared_memory[];
  return dynamic_shared_memory;
}

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Starts a copy of 16 bytes into shared memory, of which the first `num_bytes` come from `global`
// and the rest are zeros. `global` is not read where that is all of them, but has to be an address
// of global memory.
__device__ inline void CopyPartAsync(void* shared, const void* global, int num_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(num_bytes)
               : "memory");
}
__device__ inline void CopyChunkAsync(void* shared, const void* global, bool valid) {
  CopyPartAsync(shared, global, valid ? 16 : 0);
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most `kPending` of this thread's committed groups are under way.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// What this thread wrote to shared memory is visible to the tensor cores and to copies of boxes
// after the next barrier. Hopper and later.
__device__ inline void PublishToAsyncProxy() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// The first words of a kernel that LaunchEarly() starts, before it touches memory: the next kernel
// may be started now, and this one goes on when the one before it has ended.
__device__ inline void WaitForTheKernelBefore() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "griddepcontrol.launch_dependents;\n"
      "griddepcontrol.wait;\n" ::
          : "memory");
#endif
}

// Four 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void LoadMatrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
__device__ inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// Transposes an 8 x 8 matrix of 16-bit elements: lane i has elements 2 (i % 4) and the next of row
// i / 4, before and after.
__device__ inline uint32_t TransposeMatrix(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(transposed) : "r"(pair));
  return transposed;
}

// c += a b with a [16, 16], b [16, 8] of T, c [16, 8] f32.
template <class T>
__device__ inline void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void MultiplyAdd<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void MultiplyAdd<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x to 2 units in the last place; 0 for -infinity.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Two elements in one register, `low` first in memory.
template <class T>
__device__ inline uint32_t PackPair(float low, float high);
template <>
__device__ inline uint32_t PackPair<f16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ inline uint32_t PackPair<bf16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

struct FloatPair {
  float low;
  float high;
};
template <class T>
__device__ inline FloatPair UnpackPair(uint32_t pair);
template <>
__device__ inline FloatPair UnpackPair<f16>(uint32_t pair) {
  FloatPair x;
  asm("{.reg .f16 l, h;\n mov.b32 {l, h}, %2;\n cvt.f32.f16 %0, l;\n cvt.f32.f16 %1, h;}\n"
      : "=f"(x.low), "=f"(x.high)
      : "r"(pair));
  return x;
}
template <>
__device__ inline FloatPair UnpackPair<bf16>(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

// a b + c, each element rounded once.
template <class T>
__device__ inline uint32_t MultiplyAddPair(uint32_t a, uint32_t b, uint32_t c);
template <>
__device__ inline uint32_t MultiplyAddPair<f16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("fma.rn.f16x2 %0, %1, %2, %3;\n" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}
template <>
__device__ inline uint32_t MultiplyAddPair<bf16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}

// (x & mask) | bits in one instruction, which takes two constants only if it is asked to.
__device__ inline uint32_t MaskOr(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
}

// Of two numbers, NaN if one is; fminf and fmaxf give the other one.
__device__ inline float MinOrNan(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;\n" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ inline float MaxOrNan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;\n" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// Sum over the four lanes that hold one row of an accumulator, and the like for the maximum; every
// lane has the result.
__device__ inline float QuadSum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

}  // namespace kvship::cuda
