// Describes a tensor in device memory to the engine that copies boxes of it into shared memory
// (Hopper's TMA). Host code, without a device or memory of its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace kvship::cuda {

// A kernel parameter: __grid_constant__, and accessed only by copies.
struct alignas(128) TensorMap {
  std::byte opaque[128];
};

// A tensor [d2, d1, d0] of 16-bit elements, d0 contiguous; a box is [b2, b1, 64] of them, which
// becomes the rows of a panel (panel_layout.h): b2 * b1 rows of 128 bytes. The part of a box past
// the tensor's end becomes zeros.
struct BoxedTensor {
  const void* data = nullptr;  // device memory, aligned to 16 bytes
  uint64_t dims[3] = {};       // d0, d1, d2: 1 to 2^32
  uint64_t strides[2] = {};    // elements from one of d1 to the next, and of d2: multiples of 8
  uint32_t box_rows[2] = {};   // b1, b2: 1 to 256
};

// FailedPrecondition if the driver has no such function, Internal for anything that it refuses.
absl::StatusOr<TensorMap> MakeTensorMap(const BoxedTensor& tensor);

}  // namespace kvship::cuda
