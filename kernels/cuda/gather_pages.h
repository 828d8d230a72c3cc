// Gathers the kept tokens of a layer into one-head pages, on the GPU: GatherPages() of
// kernels/attention.h for all heads of a layer at once.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {

// Writes the pages of the sets of kept tokens, S sets per KV head, one set after the other. Set s
// has the tokens positions[offsets[s] .. offsets[s + 1]); its last page is padded with zeros, and
// an empty set has no page. Memory: device memory, keys, values and pages aligned to 16 bytes.
// Errors: InvalidArgument if D is not a multiple of 8, or of 32 with int8 or int4.
//
// The bytes are the CPU's, except where those depend on the order of comparisons or on the bits of
// a NaN: here NaN makes NaN of all that shares its scale, a minimum of zero is -0 if one of its
// zeros is, and on an fp8 page without magnitudes above 1e-36, whose factor is infinite, zeros keep
// their sign.
struct GatherPagesArgs {
  const void* keys = nullptr;          // [H, T, D] of dtype
  const void* values = nullptr;        // [H, T, D]
  const int32_t* positions = nullptr;  // [offsets[H S]], each below T
  const int32_t* offsets = nullptr;    // [H S + 1], offsets[0] = 0
  std::byte* pages = nullptr;          // [pages of all sets, PageBytes]
  DType dtype = DType::kBf16;          // of keys and values, f16 or bf16
  PageFormat format = PageFormat::kBf16;
  size_t num_kv_heads = 0;   // H
  size_t sets_per_head = 1;  // S
  size_t head_dim = 0;       // D
  size_t head_stride = 0;    // elements from one head's keys (values) to the next's
  size_t most_pages = 0;     // of all sets together, at most
};
absl::Status GatherPages(cudaStream_t stream, const GatherPagesArgs& args);

}  // namespace kvship::cuda
