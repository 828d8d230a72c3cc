// Scores that need no query, on the GPU: those of compress/'s scorers knorm, streaming_llm and
// random. Also operations on any scores: a fixed score for tokens that rank first or last, and
// h2o's mean over queries. Errors: InvalidArgument if sizes, strides or number formats are not as
// below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

enum class TokenScore : uint8_t {
  kSmallNorm,  // -norm2(k_i); arXiv 2406.11430
  kLate,       // i: later tokens rank higher; arXiv 2309.17453
  kRandom,     // uniform in [0, 1): the top 24 of RandomBits(RandomBits(seed, h), i)
};

// scores[h, i] as above, larger is better. Memory: device memory, keys aligned to 16 bytes and
// needed for kSmallNorm alone; D is 64 or 128.
struct ScoreTokensArgs {
  const void* keys = nullptr;  // [H, T, D] of dtype
  float* scores = nullptr;     // [H, scores_row_stride]
  TokenScore score = TokenScore::kLate;
  DType dtype = DType::kBf16;
  size_t num_kv_heads = 0;       // H
  size_t num_tokens = 0;         // that get a score, at most 2^24
  size_t head_dim = 0;           // D
  size_t key_head_stride = 0;    // elements from one head's keys to the next's
  size_t scores_row_stride = 0;  // elements, at least num_tokens
  uint64_t seed = 0;             // of the layer, for kRandom
};
absl::Status ScoreTokens(cudaStream_t stream, const ScoreTokensArgs& args);

// scores[h, i] = `score` for the tokens [begin, end), at least one: infinity ranks them first,
// minus infinity last.
struct FillScoresArgs {
  float* scores = nullptr;  // [H, scores_row_stride]
  size_t num_heads = 0;     // H
  size_t begin = 0;
  size_t end = 0;
  size_t scores_row_stride = 0;  // elements, at least `end`
  float score = 0;
};
absl::Status FillScores(cudaStream_t stream, const FillScoresArgs& args);

// scores[h, i] /= num_tokens - i, the number of queries that see key i: sums over a prompt's
// queries become means.
struct MeanOverQueriesArgs {
  float* scores = nullptr;  // [H, scores_row_stride]
  size_t num_kv_heads = 0;  // H
  size_t num_tokens = 0;
  size_t scores_row_stride = 0;  // elements, at least num_tokens
};
absl::Status MeanOverQueries(cudaStream_t stream, const MeanOverQueriesArgs& args);

}  // namespace kvship::cuda
