// What the emulated device keeps in a TensorMap.
#pragma once

#include <cstring>

#include "kernels/cuda/tensor_map.h"

namespace kvship::emulation {

inline cuda::TensorMap Pack(const cuda::BoxedTensor& tensor) {
  static_assert(sizeof(cuda::BoxedTensor) <= sizeof(cuda::TensorMap));
  cuda::TensorMap map = {};
  std::memcpy(map.opaque, &tensor, sizeof(tensor));
  return map;
}
inline cuda::BoxedTensor Unpack(const cuda::TensorMap& map) {
  cuda::BoxedTensor tensor;
  std::memcpy(&tensor, map.opaque, sizeof(tensor));
  return tensor;
}

}  // namespace kvship::emulation
