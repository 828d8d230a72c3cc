// Draws the next tokens of a batch on the GPU, the same as DrawToken() of kernels/token_draw.h.
// Errors: InvalidArgument if sizes, strides or number formats are not as below, else those of
// Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/token_draw.h"

namespace kvship::cuda {

// tokens[b] = the token drawn from logits[b] by draws[b], or kNoToken; the draw's index is then
// incremented: the next call draws the next output token. Memory: device memory.
struct DrawTokensArgs {
  const float* logits = nullptr;  // [B, V]
  TokenDraw* draws = nullptr;     // [B]
  int32_t* tokens = nullptr;      // [B]
  size_t num_sequences = 0;       // B
  size_t vocab_tokens = 0;        // V, at most kMostDrawnFrom
};
absl::Status DrawTokens(cudaStream_t stream, const DrawTokensArgs& args);

}  // namespace kvship::cuda
