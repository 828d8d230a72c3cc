// What happens to queries, keys and values between their projection and RoPE.
#pragma once

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "engine/transformer.h"
#include "kernels/backend.h"

namespace kvship {

// In place: the bias where the model has it (Qwen2), then RMS norm of each query and key head where
// it has that (Qwen3). qkv [M, (Hq + 2 H) D] f32: queries, keys, values.
absl::Status FinishQueryKeyValue(Backend& backend, const ModelConfig& config,
                                 const LayerWeights& layer, TensorView qkv);

}  // namespace kvship
