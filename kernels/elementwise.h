// The small operations between the products of a transformer layer. Each row of activations is
// computed by itself. Errors: InvalidArgument if the shapes do not fit, or an id lies outside the
// table.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/backend.h"
#include "kernels/weight_format.h"

namespace kvship {

// out[m] = row ids[m] of the embedding table, as floats. out [M, C] f32.
absl::Status Embed(Backend& backend, const WeightView& table, std::span<const int32_t> ids,
                   TensorView out);

// out = x / sqrt(mean(x^2) + epsilon) * weight, row by row. x, out [M, C] or [M, heads, C] f32 (may
// be the same), weight [C]. Source: arXiv 1910.07467.
absl::Status RmsNorm(Backend& backend, TensorView x, std::span<const float> weight, float epsilon,
                     TensorView out);

// x[m] += bias, row by row. x [M, C] f32, bias [C].
absl::Status AddBias(Backend& backend, std::span<const float> bias, TensorView x);

// out = silu(gate) * up, silu(x) = x / (1 + exp(-x)). gate_up [M, 2F] f32 with the gates first, out
// [M, F] f32. exp() is a polynomial good to 2 units in the last place.
absl::Status SiluMul(Backend& backend, TensorView gate_up, TensorView out);

// Which elements of a head RoPE rotates together: i and i + D/2 (Hugging Face checkpoints), or 2i
// and 2i + 1 (GGUF's llama architecture, whose converter permutes the rows of Q and K).
enum class RopePairs : uint8_t { kHalves, kAdjacent };

// Rotates x in place: pair i of row m by the angle with the cosine cos_sin[m, 2i] and the sine
// cos_sin[m, 2i + 1]. Shapes: x [M, heads, D] f32, cos_sin [M, D] f32. Source: RoFormer, arXiv
// 2104.09864.
absl::Status Rope(Backend& backend, TensorView x, TensorView cos_sin, RopePairs pairs);

}  // namespace kvship
