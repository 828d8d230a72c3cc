// TensorView borrows a dense array of up to four dimensions whose last dimension is contiguous; the
// others have strides in elements. The memory must outlive the view. Copying a view copies no data.
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "base/float16.h"

namespace kvship {

enum class DType : uint8_t { kF32, kF16, kBf16 };

constexpr size_t DTypeBytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  size_t rank = 0;
  std::array<size_t, 4> dims = {};
  std::array<size_t, 4> strides = {};  // in elements; strides[rank-1] == 1

  TensorView() = default;
  // A view of contiguous memory.
  TensorView(void* memory, DType type, std::initializer_list<size_t> sizes)
      : data(memory), dtype(type), rank(sizes.size()) {
    size_t i = 0;
    for (size_t n : sizes) dims[i++] = n;
    size_t stride = 1;
    for (i = rank; i-- > 0; stride *= dims[i]) strides[i] = stride;
  }
  TensorView(float* memory, std::initializer_list<size_t> sizes)
      : TensorView(memory, DType::kF32, sizes) {}

  float* f32() const {
    assert(dtype == DType::kF32);
    return static_cast<float*>(data);
  }
  // First element of row i (of the first dimension) or of [i][j].
  float* f32(size_t i) const { return f32() + i * strides[0]; }
  float* f32(size_t i, size_t j) const { return f32() + i * strides[0] + j * strides[1]; }

  size_t num_elements() const {
    size_t n = 1;
    for (size_t i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }

  // Items [begin, begin + count) of dimension `axis`.
  TensorView Slice(size_t axis, size_t begin, size_t count) const {
    assert(axis < rank && begin + count <= dims[axis]);
    TensorView out = *this;
    out.data = static_cast<std::byte*>(data) + begin * strides[axis] * DTypeBytes(dtype);
    out.dims[axis] = count;
    return out;
  }
  // Swaps dimensions i and j, neither of which is the last.
  TensorView Transposed(size_t i, size_t j) const {
    assert(i + 1 < rank && j + 1 < rank);
    TensorView out = *this;
    std::swap(out.dims[i], out.dims[j]);
    std::swap(out.strides[i], out.strides[j]);
    return out;
  }
  // Splits the last dimension [heads * n] into [heads, n].
  TensorView SplitLast(size_t heads) const {
    assert(rank < 4 && dims[rank - 1] % heads == 0);
    TensorView out = *this;
    out.rank = rank + 1;
    out.dims[rank] = dims[rank - 1] / heads;
    out.strides[rank] = 1;
    out.dims[rank - 1] = heads;
    out.strides[rank - 1] = out.dims[rank];
    return out;
  }
};

}  // namespace kvship
