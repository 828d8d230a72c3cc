// DeviceLayerView is what a compressor sees of a layer that a GPU has just prefilled: LayerView
// with device addresses. Plain data; the views are borrowed and valid until the engine's next step.
#pragma once

#include <cstddef>

#include "base/tensor_view.h"

namespace kvship {

struct DeviceLayerView {
  size_t layer = 0;
  DType dtype = DType::kBf16;
  const std::byte* keys = nullptr;            // [H, T, D] of dtype, after RoPE
  const std::byte* values = nullptr;          // [H, T, D] of dtype
  size_t head_stride = 0;                     // elements from one KV head to the next
  const std::byte* window_queries = nullptr;  // [Hq, W, D] of dtype, after RoPE
  const float* window_lse = nullptr;          // [Hq, W]
  // Set only if LayerNeeds asks for them:
  const float* column_sums = nullptr;       // [Hq, T]
  const float* query_mean = nullptr;        // [Hq, D], rotated as LayerView's
  const float* query_covariance = nullptr;  // [Hq, D, D], rotated as LayerView's
};

}  // namespace kvship
