// kernels/cuda/box_copy.cuh on the CPU. The box is read and written as late as can be, and until
// then its place holds NaN: what is still read there, or already, shows.
#pragma once

#include <cstring>

#include "kernels/cuda/barrier.cuh"
#include "kernels/cuda/panel_layout.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda/emulation/block.h"
#include "tests/kernels/cuda/emulation/operand.h"
#include "tests/kernels/cuda/emulation/tensor_map.h"

namespace kvship::cuda {

inline void CopyBox(uint32_t to, const BoxedTensor& tensor, const int (&begin)[3]) {
  emulation::Block& block = emulation::Block::Current();
  for (uint32_t row = 0; row < tensor.box_rows[0] * tensor.box_rows[1]; ++row) {
    const uint64_t i1 = begin[1] + row % tensor.box_rows[0];
    const uint64_t i2 = begin[2] + row / tensor.box_rows[0];
    for (uint32_t column = 0; column < kPanelElements; ++column) {
      const uint64_t i0 = begin[0] + column;
      const uint32_t address = to + (row * kPanelElements + column) * sizeof(uint16_t);
      uint16_t element = 0;
      if (i0 < tensor.dims[0] && i1 < tensor.dims[1] && i2 < tensor.dims[2]) {
        element = static_cast<const uint16_t*>(
            tensor.data)[i0 + i1 * tensor.strides[0] + i2 * tensor.strides[1]];
      }
      std::memcpy(block.AtSharedAddress(emulation::Swizzled(address), sizeof(element)), &element,
                  sizeof(element));
    }
  }
}

inline void CopyBoxAsync(void* shared, const TensorMap& map, int i0, int i1, int i2,
                         SharedBarrier& barrier) {
  constexpr uint32_t kAlignment = 128;
  RequireBarrier(barrier);
  const BoxedTensor tensor = emulation::Unpack(map);
  const uint32_t to = SharedAddress(shared);
  const uint32_t num_bytes =
      tensor.box_rows[0] * tensor.box_rows[1] * kPanelElements * sizeof(uint16_t);
  Require(to % kAlignment == 0, "a box to an odd place of shared memory");
  Require(i0 >= 0 && i1 >= 0 && i2 >= 0, "a box that begins before the tensor");
  emulation::Block& block = emulation::Block::Current();
  Require(block.IsPublished(&barrier), "a barrier of copies that was not published");
  std::memset(block.AtSharedAddress(to, num_bytes), 0xff, num_bytes);
  block.Later([=, &barrier] {
    CopyBox(to, tensor, {i0, i1, i2});
    BytesHaveCome(barrier, num_bytes);
  });
}

}  // namespace kvship::cuda
