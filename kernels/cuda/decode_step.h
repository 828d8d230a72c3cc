// The part of a decode step before the network, on the GPU: it finds where the new token of each
// sequence goes, so that a captured graph can be replayed without the host. Errors: InvalidArgument
// if sizes, strides or number formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/paged_attention.h"

namespace kvship::cuda {

// Adds one token to every tail: counts it, and writes which page and slot it takes. All heads of a
// sequence have the same number of tail tokens, and those of one KV head the same tail. Memory:
// device memory.
struct AdvanceTailsArgs {
  PagedHead* heads = nullptr;    // [L, B, S]: num_tail_tokens is incremented
  std::byte** pages = nullptr;   // [L, B, H]: the page of the new token
  int32_t* slots = nullptr;      // [B]: its slot there
  int32_t* positions = nullptr;  // [B]: incremented: the position of the new token
  size_t num_layers = 0;         // L
  size_t num_sequences = 0;      // B
  size_t num_heads = 0;          // S, a multiple of H
  size_t num_kv_heads = 0;       // H
};
absl::Status AdvanceTails(cudaStream_t stream, const AdvanceTailsArgs& args);

}  // namespace kvship::cuda
