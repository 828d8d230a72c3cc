// The small operations between the products of a transformer layer, on the GPU:
// kernels/elementwise.h on f16 or bf16 activations, computed in float32. Errors: InvalidArgument if
// sizes, strides or number formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/elementwise.h"

namespace kvship::cuda {

// All pointers are device memory aligned to 16 bytes; C, F and D are multiples of 8.

// out[m] = table[ids[m]]. table [V, C], out [M, C] of dtype; ids [M], each below V. kNoToken, which
// a step may draw for the next one before the host sees it, is taken for 0.
struct EmbedArgs {
  const void* table = nullptr;
  const int32_t* ids = nullptr;
  void* out = nullptr;
  DType dtype = DType::kBf16;
  size_t num_tokens = 0;  // M
  size_t width = 0;       // C
};
absl::Status Embed(cudaStream_t stream, const EmbedArgs& args);

// x += residual if given, then out = x / sqrt(mean(x^2) + epsilon) * weight, row by row. x,
// residual, out [M, C], weight [C] of dtype; out may be x only without a residual. C is at most
// 16384. The mean is taken of the sum before it is rounded to dtype. Source: arXiv 1910.07467.
struct RmsNormArgs {
  void* x = nullptr;
  const void* residual = nullptr;  // or null
  const void* weight = nullptr;
  void* out = nullptr;
  DType dtype = DType::kBf16;
  size_t num_tokens = 0;  // M
  size_t width = 0;       // C
  float epsilon = 1e-5f;
};
absl::Status RmsNorm(cudaStream_t stream, const RmsNormArgs& args);

// out = silu(gate) * up. gate_up [M, 2F] with the gates first, out [M, F] of dtype.
struct SiluMulArgs {
  const void* gate_up = nullptr;
  void* out = nullptr;
  DType dtype = DType::kBf16;
  size_t num_tokens = 0;  // M
  size_t width = 0;       // F
};
absl::Status SiluMul(cudaStream_t stream, const SiluMulArgs& args);

// Rotates the queries of qkv in place, and writes the rotated keys and the values where attention
// reads them: to row first_row + m of keys and values for a prompt; if `pages` is given, to slot
// slots[m] of page pages[m, h] instead, for a decode step with one token per sequence. If
// query_norm and key_norm are given, each head of queries and keys first becomes x / sqrt(mean(x^2)
// + epsilon) times them (Qwen3), without rounding in between; D is then 64, 128 or 256.
struct RopeArgs {
  void* qkv = nullptr;                // [M, Hq + 2H, D] of dtype: queries, keys, values
  const void* query_norm = nullptr;   // [D] of dtype; both or neither
  const void* key_norm = nullptr;     // [D]
  const float* cos_sin = nullptr;     // [M, D]: cosine and sine of pair i at 2i and 2i + 1
  void* keys = nullptr;               // [H, T, D] of dtype
  void* values = nullptr;             // [H, T, D]
  std::byte* const* pages = nullptr;  // [M, H] addresses of pages in the format of dtype
  const int32_t* slots = nullptr;     // [M], each below kPageTokens
  DType dtype = DType::kBf16;
  RopePairs pairs = RopePairs::kHalves;
  size_t num_tokens = 0;       // M
  size_t num_query_heads = 0;  // Hq
  size_t num_kv_heads = 0;     // H
  size_t head_dim = 0;         // D
  size_t head_stride = 0;      // elements from one head's keys (values) to the next's
  size_t first_row = 0;
  float norm_epsilon = 1e-5f;
};
absl::Status RopeAndStore(cudaStream_t stream, const RopeArgs& args);

}  // namespace kvship::cuda
