// The step between the projection of queries, keys and values and RoPE.
#pragma once

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "engine/transformer.h"
#include "kernels/backend.h"

namespace kvship {

// In place: adds the bias if the model has one (Qwen2), then applies RMS norm to each query and key
// head if it has that (Qwen3). qkv [M, (Hq + 2 H) D] f32: queries, keys, values.
absl::Status FinishQueryKeyValue(Backend& backend, const ModelConfig& config,
                                 const LayerWeights& layer, TensorView qkv);

}  // namespace kvship
