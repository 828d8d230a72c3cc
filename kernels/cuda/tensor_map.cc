#include "kernels/cuda/tensor_map.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/panel_layout.h"

namespace kvship::cuda {
namespace {

using Encode = PFN_cuTensorMapEncodeTiled_v12000;

// By name, so that programs start where there is no driver.
absl::StatusOr<Encode> FindEncode() {
  constexpr unsigned kCuda12 = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_ERROR(CudaStatus(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              kCuda12, cudaEnableDefault, &result),
                             "cuTensorMapEncodeTiled"));
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    return absl::FailedPreconditionError(
        "cuTensorMapEncodeTiled: wanted a driver for CUDA 12.0 or later");
  }
  return reinterpret_cast<Encode>(function);
}

}  // namespace

absl::StatusOr<TensorMap> MakeTensorMap(const BoxedTensor& tensor) {
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap) &&
                alignof(CUtensorMap) <= alignof(TensorMap));
  static const absl::StatusOr<Encode> encode = FindEncode();
  RETURN_IF_ERROR(encode.status());
  constexpr uint64_t kElementBytes = 2;
  const cuuint64_t stride_bytes[] = {tensor.strides[0] * kElementBytes,
                                     tensor.strides[1] * kElementBytes};
  const cuuint32_t box[] = {kPanelElements, tensor.box_rows[0], tensor.box_rows[1]};
  const cuuint32_t every[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result = (*encode)(
      &map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, const_cast<void*>(tensor.data), tensor.dims,
      stride_bytes, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InternalError(absl::StrCat(
        "tensor map of [", tensor.dims[2], ", ", tensor.dims[1], ", ", tensor.dims[0],
        "], strides ", tensor.strides[1], ", ", tensor.strides[0], ", box of ", tensor.box_rows[1],
        ", ", tensor.box_rows[0], ": CUDA driver error ", static_cast<int>(result)));
  }
  TensorMap named;
  std::memcpy(&named, &map, sizeof(map));
  return named;
}

}  // namespace kvship::cuda
