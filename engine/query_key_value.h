// What happens to queries and keys between their projection and RoPE.
#pragma once

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "engine/transformer.h"
#include "kernels/backend.h"

namespace kvship {

// RMS norm of each query and key head, in place, where the model has it (Qwen3), else nothing. qkv
// [M, (Hq + 2 H) D] f32: queries, keys, values.
absl::Status NormQueriesAndKeys(Backend& backend, const ModelConfig& config,
                                const LayerWeights& layer, TensorView qkv);

}  // namespace kvship
