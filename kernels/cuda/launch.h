// Helpers that launch kernels: checked launches, errors as Status, and dispatch on the element
// type. Host code, for the .cu files of this folder. Launches are asynchronous: an operation is
// complete when its stream is.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/float16.h"
#include "base/status_macros.h"
#include "base/tensor_view.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {

// ResourceExhausted if the device is out of memory, Internal for any other error.
inline absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const auto message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}

// An attribute of the current device.
inline absl::StatusOr<size_t> DeviceAttribute(cudaDeviceAttr attribute, const char* what) {
  int device = 0, value = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error != cudaSuccess) return CudaStatus(error, what);
  return static_cast<size_t>(value);
}
inline absl::StatusOr<size_t> NumMultiprocessors() {
  return DeviceAttribute(cudaDevAttrMultiProcessorCount, "number of multiprocessors");
}
// Whether the current device runs code for sm_90a.
inline absl::StatusOr<bool> IsHopper() {
  ASSIGN_OR_RETURN(const size_t major,
                   DeviceAttribute(cudaDevAttrComputeCapabilityMajor, "compute capability"));
  return major == 9;
}

template <class... Parameters>
absl::Status LaunchWith(cudaLaunchConfig_t config, cudaStream_t stream, dim3 grid, dim3 block,
                        size_t shared_bytes, void (*kernel)(Parameters...),
                        const std::type_identity_t<Parameters>&... arguments) {
  // With a block's other shared memory, less than 48 KiB.
  constexpr size_t kSharedWithoutAsking = 47 << 10;
  if (shared_bytes > kSharedWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return CudaStatus(error, "shared memory of a kernel");
  }
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return CudaStatus(cudaLaunchKernelEx(&config, kernel, arguments...), "kernel launch");
}

// Runs `kernel` on `stream`. Returns the launch's error as CudaStatus(), not that of the run.
template <class... Parameters>
absl::Status Launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
                    void (*kernel)(Parameters...),
                    const std::type_identity_t<Parameters>&... arguments) {
  return LaunchWith({}, stream, grid, block, shared_bytes, kernel, arguments...);
}

// Whether this file has code for compute capability 9.0. Code that is compiled for a lower one, and
// by the driver for the device, has no WaitForTheKernelBefore() in it.
static constexpr bool IsBuiltForHopper() {
#ifdef __CUDA_ARCH_LIST__
  for (const int architecture : {__CUDA_ARCH_LIST__}) {
    if (architecture == 900) return true;
  }
  return false;
#else
  return true;
#endif
}

// As Launch(), for a kernel that begins with WaitForTheKernelBefore(): on Hopper it starts while
// the previous kernel runs, which saves a microsecond between short kernels.
template <class... Parameters>
absl::Status LaunchEarly(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
                         void (*kernel)(Parameters...),
                         const std::type_identity_t<Parameters>&... arguments) {
  ASSIGN_OR_RETURN(const bool is_hopper, IsHopper());
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.attrs = &early;
  config.numAttrs = is_hopper && IsBuiltForHopper() ? 1 : 0;
  return LaunchWith(config, stream, grid, block, shared_bytes, kernel, arguments...);
}

// Calls launch(T{}) with T the element type of `dtype`, f16 or bf16.
template <class LaunchFunction>
absl::Status WithElementType(DType dtype, LaunchFunction&& launch) {
  switch (dtype) {
    case DType::kF16: return launch(f16{});
    case DType::kBf16: return launch(bf16{});
    default: return absl::InvalidArgumentError("dtype: wanted f16 or bf16");
  }
}

// Calls launch(std::integral_constant<int, D>{}) for head sizes that the tiled kernels support.
template <class LaunchFunction>
absl::Status WithHeadDim(size_t head_dim, LaunchFunction&& launch) {
  switch (head_dim) {
    case 64: return launch(std::integral_constant<int, 64>{});
    case 128: return launch(std::integral_constant<int, 128>{});
    default:
      return absl::InvalidArgumentError(absl::StrCat("head_dim ", head_dim, ": wanted 64 or 128"));
  }
}

inline absl::Status CheckHeads(size_t num_query_heads, size_t num_kv_heads) {
  if (num_kv_heads > 0 && num_query_heads > 0 && num_query_heads % num_kv_heads == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "num_query_heads ", num_query_heads, ": wanted a multiple of num_kv_heads ", num_kv_heads));
}

}  // namespace kvship::cuda
