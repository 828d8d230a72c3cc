// Products of activations with weight matrices. Prefill has many rows of activations: it unpacks a
// layer's weights once per prompt (ProductWeights) and multiplies blocks of rows with them. Decode
// has few: it multiplies directly with the quantized weights. Weights that share their input (Q, K
// and V; gate and up) are passed together and their outputs lie side by side.
//
// Each output element is computed by the same sequence of operations, whatever the number of rows
// and of threads. Errors: InvalidArgument if the shapes do not fit.
#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "base/tensor_view.h"
#include "kernels/backend.h"
#include "kernels/weight_format.h"

namespace kvship {

// Weights unpacked for products with many rows. Owns its memory and reuses it from layer to layer.
struct ProductWeights {
  Buffer memory;
  Arithmetic arithmetic = Arithmetic::kFast;
  size_t rows = 0;      // of all matrices together: the N of the product
  size_t cols = 0;      // the K of the product
  uint32_t layout = 0;  // how `memory` is arranged: TileLayout of kernels/cpu/product_tiles.h
};

// Unpacks `stacked` (all with the same cols) into `out`, one below the other. With kFast, if the
// processor has AVX2, quantized weights stay bytes (1.25 per weight instead of 4) and Product
// rounds the activations to 16 bits in runs of 32; if it has AVX512-BF16, bf16 weights stay bf16
// and Product rounds the activations to bf16.
absl::Status UnpackWeights(Backend& backend, std::span<const WeightView> stacked,
                           Arithmetic arithmetic, ProductWeights* out);

// y = x W^T, or y += x W^T with `accumulate`. Shapes: x [M, K] f32, y [M, N] f32; rows of either
// may be strided.
absl::Status Product(Backend& backend, TensorView x, const ProductWeights& weights, TensorView y,
                     bool accumulate = false);

// As Product, but directly on the packed weights, for a small M of up to some dozens (a decode
// batch). Shapes: x [M, K] f32, y [M, sum of rows] f32. With kFast activations are rounded in the
// same way.
absl::Status ProductPacked(Backend& backend, TensorView x, std::span<const WeightView> stacked,
                           Arithmetic arithmetic, TensorView y, bool accumulate = false);

// Converts rows [begin_row, begin_row + out.dims[0]) of a matrix to floats. out [rows, cols] f32.
// Exact: the reference for all of the above.
void Dequantize(const WeightView& weights, size_t begin_row, TensorView out);

}  // namespace kvship
