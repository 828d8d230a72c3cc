// Scores of whole chunks of a layer's tokens, on the GPU: ChunkKV (arXiv 2502.00299) as
// compress/selector.h describes it. Errors: InvalidArgument if sizes, strides or number formats are
// not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace kvship::cuda {

// chunk_scores[j] = the mean over the tokens [j c, (j + 1) c) below T of the sum over the heads of
// scores[h, i], where the first num_sinks and the last num_recent tokens count as the largest of
// all scores + 1, and others without a score as the smallest. Sums are in double, head by head and
// token by token: the CPU's numbers. Memory: device memory.
struct ChunkScoresArgs {
  const float* scores = nullptr;  // [H, scores_row_stride], num_scored of a row count
  float* chunk_scores = nullptr;  // [NumChunks]
  void* workspace = nullptr;      // of ChunkScoresWorkspaceBytes()
  size_t num_heads = 0;           // H
  size_t num_tokens = 0;          // T
  size_t num_scored = 0;          // at most T
  size_t scores_row_stride = 0;   // elements
  size_t chunk_tokens = 0;        // c
  size_t num_sinks = 0;
  size_t num_recent = 0;
};
size_t ChunkScoresWorkspaceBytes();
absl::Status ChunkScores(cudaStream_t stream, const ChunkScoresArgs& args);

// The tokens of chosen chunks as positions of every head: positions[h n .. (h + 1) n) are the n
// tokens of the chunks, ascending, and offsets[h] = h n. Memory: device memory.
struct ChunkPositionsArgs {
  const int32_t* chunks = nullptr;  // [num_chunks], ascending
  int32_t* offsets = nullptr;       // [H + 1]
  int32_t* positions = nullptr;     // [H num_chunks c], at most
  size_t num_heads = 0;             // H
  size_t num_tokens = 0;            // T: the last chunk may be shorter
  size_t num_chunks = 0;            // at least 1
  size_t chunk_tokens = 0;          // c
};
absl::Status ChunkPositions(cudaStream_t stream, const ChunkPositionsArgs& args);

}  // namespace kvship::cuda
