#include "tests/kernels/cuda/emulation/tensor_map.h"

#include "absl/status/status.h"

namespace kvship::cuda {

// Refuses what the driver does. Source: the CUDA driver API's cuTensorMapEncodeTiled.
absl::StatusOr<TensorMap> MakeTensorMap(const BoxedTensor& tensor) {
  constexpr uint64_t kAlignment = 16, kElementBytes = 2, kMostRows = 256;
  bool valid = reinterpret_cast<uintptr_t>(tensor.data) % kAlignment == 0;
  for (const uint64_t dim : tensor.dims) valid &= dim >= 1 && dim <= uint64_t{1} << 32;
  for (const uint64_t stride : tensor.strides) {
    valid &= stride * kElementBytes % kAlignment == 0 && stride * kElementBytes < uint64_t{1} << 40;
  }
  for (const uint32_t rows : tensor.box_rows) valid &= rows >= 1 && rows <= kMostRows;
  if (!valid) return absl::InternalError("tensor map: the emulated driver refuses it");
  return emulation::Pack(tensor);
}

}  // namespace kvship::cuda
