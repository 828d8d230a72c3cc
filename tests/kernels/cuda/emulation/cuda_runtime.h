// The part of CUDA that kernels/cuda uses, on the CPU: the kernels' .cu files compile with an
// ordinary compiler against this header, and their tests run on machines without a device. Slow, in
// order, and strict: device memory is host memory, so a debugger and valgrind see every access.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/kernels/cuda/emulation/block.h"
#include "tests/kernels/cuda/emulation/stream.h"
#include "tests/kernels/cuda/emulation/warp.h"

// NOLINTBEGIN(bugprone-reserved-identifier,google-explicit-constructor): the names and the implicit
// conversions below are CUDA's.

// The words of CUDA C++ that an ordinary compiler does not know. Blocks run one after the other, so
// what a block shares can be static.
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline dim3 blockIdx, blockDim, gridDim;
struct EmulatedThreadIndex {
  struct {
    operator unsigned() const {
      return static_cast<unsigned>(kvship::emulation::Block::Current().thread());
    }
  } x;
};
inline constexpr EmulatedThreadIndex threadIdx;

inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
// Digit i of the selector says which of the eight bytes of x, then of y, is byte i of the result.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(bytes >> ((selector >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
  }
  return result;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  return std::min<std::common_type_t<A, B>>(a, b);
}
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  return std::max<std::common_type_t<A, B>>(a, b);
}
template <class T>
T atomicAdd(T* to, T x) {
  const T before = *to;
  *to += x;
  return before;
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorIllegalState = 401,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureImplicit = 906
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMemoryPoolsSupported
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = kvship::emulation::Stream*;

inline const char* cudaGetErrorString(cudaError_t) { return "error of the emulated device"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() {
  kvship::emulation::Stream::FinishAll();
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// A Hopper of five multiprocessors, a number that divides nothing: runs of tiles of unequal length
// are the normal case.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 5;
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** memory, size_t num_bytes) {
  constexpr size_t kAlignment = 256, kDeviceBytes = size_t{1} << 40;  // malloc may promise more
  if (num_bytes > kDeviceBytes) return cudaErrorMemoryAllocation;
  *memory = std::aligned_alloc(kAlignment, (num_bytes / kAlignment + 1) * kAlignment);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  if (memory != nullptr) kvship::emulation::Stream::FinishAll();
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** memory, size_t num_bytes) {
  return cudaMalloc(memory, num_bytes);
}
inline cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t num_bytes, cudaMemcpyKind) {
  kvship::emulation::Stream::FinishDefault();
  if (num_bytes > 0) std::memcpy(to, from, num_bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, cudaMemcpyKind,
                                     cudaStream_t stream) {
  kvship::emulation::Stream::Do(stream, [=] {
    for (size_t i = 0; i < height; ++i) {
      std::memcpy(static_cast<std::byte*>(to) + i * to_pitch,
                  static_cast<const std::byte*>(from) + i * from_pitch, width);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                size_t width, size_t height, cudaMemcpyKind kind) {
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
// What comes from the host is taken at once: none of it needs to be there later, as it is with CUDA
// where the memory is not pinned.
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes,
                                   cudaMemcpyKind kind, cudaStream_t stream) {
  const auto* bytes = static_cast<const std::byte*>(from);
  if (kind == cudaMemcpyHostToDevice) {
    kvship::emulation::Stream::Do(
        stream, [to, kept = std::vector<std::byte>(bytes, bytes + num_bytes)] {
          std::copy(kept.begin(), kept.end(), static_cast<std::byte*>(to));
        });
  } else {
    kvship::emulation::Stream::Do(stream, [=] { std::memcpy(to, from, num_bytes); });
  }
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t num_bytes, cudaStream_t stream) {
  kvship::emulation::Stream::Do(stream, [=] { std::memset(memory, value, num_bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* memory, int value, size_t num_bytes) {
  return cudaMemsetAsync(memory, value, num_bytes, nullptr);
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int value) {
  constexpr int kMaxSharedBytes = 227 << 10;  // of compute capability 9.0
  return value <= kMaxSharedBytes ? cudaSuccess : cudaErrorInvalidValue;
}

// The device's memory pool, which has at any time what is used of it and no more.
struct EmulatedPool {
  std::map<void*, uint64_t> num_bytes;
};
using cudaMemPool_t = EmulatedPool*;
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold,
  cudaMemPoolAttrReservedMemCurrent,
  cudaMemPoolAttrUsedMemCurrent
};
struct cudaPointerAttributes {
  int device;
};
inline EmulatedPool emulated_pool;
inline int num_emulated_captures = 0;

inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = &emulated_pool;
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  uint64_t sum = 0;
  for (const auto& [memory, num_bytes] : pool->num_bytes) sum += num_bytes;
  *static_cast<uint64_t*>(value) = sum;
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  attributes->device = 0;
  return cudaSuccess;
}
// The default stream may not be used while one captures that is in order with it.
inline cudaError_t cudaMallocAsync(void** memory, size_t num_bytes, cudaStream_t stream) {
  if (stream == nullptr && num_emulated_captures > 0) return cudaErrorStreamCaptureImplicit;
  const cudaError_t error = cudaMalloc(memory, num_bytes);
  if (error == cudaSuccess) emulated_pool.num_bytes[*memory] = num_bytes;
  return error;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  if (stream == nullptr && num_emulated_captures > 0) return cudaErrorStreamCaptureImplicit;
  emulated_pool.num_bytes.erase(memory);
  kvship::emulation::Stream::DoLate(stream, [memory] { std::free(memory); });
  return cudaSuccess;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
template <class Kernel>
void RunEmulatedGrid(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  const size_t num_threads = size_t{blockDim.x} * blockDim.y * blockDim.z;
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
        kvship::emulation::Block::Current().Run(num_threads, config.dynamicSmemBytes, kernel);
      }
    }
  }
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const dim3& grid = config->gridDim;
  const dim3& block = config->blockDim;
  const size_t num_threads = size_t{block.x} * block.y * block.z;
  if (num_threads == 0 || num_threads > 1024 || grid.x == 0 || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidValue;
  }
  kvship::emulation::Stream::Do(config->stream, [config = *config, kernel, ... kept = arguments] {
    RunEmulatedGrid(config, [&] { kernel(kept...); });
  });
  return cudaSuccess;
}

using cudaEvent_t = kvship::emulation::Event*;
using cudaGraph_t = kvship::emulation::Graph*;
using cudaGraphExec_t = kvship::emulation::Graph*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
inline constexpr unsigned cudaEventBlockingSync = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;

inline constexpr unsigned cudaStreamDefault = 0;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = new kvship::emulation::Stream(/*in_order=*/flags == cudaStreamDefault);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream == nullptr ? kvship::emulation::Stream::FinishDefault() : stream->Finish();
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new kvship::emulation::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {stream, stream->num_enqueued()};
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) event->stream->FinishUpTo(event->num_enqueued);
  return cudaSuccess;
}
// Whatever its mode, a capture of a stream that is in order with the default one ends where any
// thread uses that; somebody always does.
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->is_capturing()) return cudaErrorIllegalState;
  num_emulated_captures += stream->in_order() ? 1 : 0;
  stream->BeginCapture();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->EndCapture();
  if (!stream->in_order()) return cudaSuccess;
  --num_emulated_captures;
  delete std::exchange(*graph, nullptr);
  return cudaErrorStreamCaptureInvalidated;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned) {
  *executable = new kvship::emulation::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const auto& work : executable->work) kvship::emulation::Stream::Do(stream, work);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return cudaGraphDestroy(executable);
}

// NOLINTEND(bugprone-reserved-identifier,google-explicit-constructor)
