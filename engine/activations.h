// Scratch memory of an engine, seen as rows of activations.
#pragma once

#include "base/buffer.h"
#include "base/tensor_view.h"

namespace kvship {

// Views `buffer` as [rows, cols] f32. A buffer that is too small grows, and loses its contents.
inline TensorView ActivationRows(Buffer& buffer, size_t rows, size_t cols) {
  buffer.GrowTo(rows * cols * sizeof(float));
  return TensorView(buffer.as<float>(), {rows, cols});
}

}  // namespace kvship
