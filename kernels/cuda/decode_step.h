// What a decode step does beside the network, on the GPU: it finds where the new token of each
// sequence goes, and draws the likeliest next one. With these a step needs nothing from the host,
// so that a captured graph can be replayed.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/paged_attention.h"

namespace kvship::cuda {

// Makes room for one token more in every tail: counts it, and says which page and slot it takes.
// All heads of a sequence have as many tail tokens. Memory: device memory.
struct AdvanceTailsArgs {
  PagedHead* heads = nullptr;    // [L, B, H]: num_tail_tokens becomes one more
  std::byte** pages = nullptr;   // [L, B, H]: the page of the new token
  int32_t* slots = nullptr;      // [B]: its slot there
  int32_t* positions = nullptr;  // [B]: becomes one more: the position of the new token
  size_t num_layers = 0;         // L
  size_t num_sequences = 0;      // B
  size_t num_kv_heads = 0;       // H
};
absl::Status AdvanceTails(cudaStream_t stream, const AdvanceTailsArgs& args);

// tokens[b] = the index of the largest of logits[b], ties to the smallest. NaN is never chosen
// unless all are NaN: then the token is 0. Memory: device memory.
struct LikeliestTokensArgs {
  const float* logits = nullptr;  // [B, V]
  int32_t* tokens = nullptr;      // [B]
  size_t num_sequences = 0;       // B
  size_t vocab_tokens = 0;        // V
};
absl::Status LikeliestTokens(cudaStream_t stream, const LikeliestTokensArgs& args);

}  // namespace kvship::cuda
