// How many of its best tokens each head needs for a share of the window's attention, on the GPU:
// the allocator mass of compress/allocator.h, where every token has a score. Errors:
// InvalidArgument if sizes, strides or number formats are not as below, else those of Launch() in
// launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// Each row takes the tokens n .. T - 1, which are always kept, then others in the order of their
// scores, ties by position, NaN last, until the votes on the taken tokens reach target_share of G
// W: at least `least` of the n, at most `most`. offsets[h + 1] - offsets[h] = (how many of the n
// head h takes) + num_appended, offsets[0] = 0, as TopPositions() expects. Votes are summed as
// multiples of 2^-40, in any order. Memory: device memory; `workspace` of
// MassTokensWorkspaceBytes(), filled with zeros before the first of the calls that share it.
struct MassTokensArgs {
  const float* scores = nullptr;  // [H, scores_row_stride], n of a row count
  const float* votes = nullptr;   // [H * G, votes_row_stride], of W queries: WindowVotes()
  int32_t* offsets = nullptr;     // [H + 1]
  void* workspace = nullptr;
  size_t num_kv_heads = 0;       // H, at most 1024
  size_t group = 0;              // G
  size_t window = 0;             // W
  size_t num_tokens = 0;         // T
  size_t num_scores = 0;         // n, at most T
  size_t scores_row_stride = 0;  // elements
  size_t votes_row_stride = 0;
  size_t least = 0;  // at most `most`
  size_t most = 0;   // at most n
  size_t num_appended = 0;
  double target_share = 0;
};
size_t MassTokensWorkspaceBytes(size_t num_kv_heads);
absl::Status MassTokens(cudaStream_t stream, const MassTokensArgs& args);

}  // namespace kvship::cuda
