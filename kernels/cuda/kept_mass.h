// How much of the window's attention falls on kept tokens, on the GPU. Errors: InvalidArgument if
// sizes, strides or number formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// Computes, for each set of kept tokens (a KV head's or a query head's), which share of its query
// heads' attention falls on them: of all attention, and of that on the tokens [middle_begin,
// middle_end); 1 if that is zero. A query's attention sums to one over the prompt, so the votes on
// the few tokens outside the middle give the middle's sum; if that is next to nothing, the middle's
// own votes are summed. NaN if votes are NaN. Memory: device
// memory.
struct KeptMassArgs {
  const float* votes = nullptr;        // [H * G, votes_row_stride], of W queries: WindowVotes()
  const int32_t* positions = nullptr;  // [offsets[H]], of kept tokens, head after head
  const int32_t* offsets = nullptr;    // [H + 1]
  float* retained_mass = nullptr;      // [H]
  float* chosen_mass = nullptr;        // [H]
  size_t num_kv_heads = 0;             // H: of the sets
  size_t group = 0;                    // G: query heads of a set
  size_t window = 0;                   // W
  size_t num_tokens = 0;               // T
  size_t num_last = 0;                 // kept at the end of the prompt, beside the positions
  size_t middle_begin = 0;
  size_t middle_end = 0;
  size_t votes_row_stride = 0;  // elements
};
absl::Status KeptMass(cudaStream_t stream, const KeptMassArgs& args);

}  // namespace kvship::cuda
