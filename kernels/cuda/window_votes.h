// The attention of consecutive queries of a prompt, usually its last, to each key, on the GPU:
// WindowVotes() of kernels/scores.h on tensor cores, in one pass over the keys, with the
// log-sum-exp of attention or of window_sums.h. Errors: InvalidArgument if sizes, strides or number
// formats are not as below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

// The most queries that one pass over the keys takes.
inline constexpr size_t kMostWindowQueries = 64;

// votes[h, i] = sum over w of exp(q[h,w].k[i] / sqrt(D) - lse[h,w]),
//               zero where i > first_position + w
//
// Every vote is computed by the same sequence of operations whatever the number of keys and the
// device's size. With `accumulate` the sum is added to the existing vote. Memory: device memory, q
// and keys aligned to 16 bytes. W is 1 to kMostWindowQueries, D 64 or 128.
struct WindowVotesArgs {
  const void* q = nullptr;     // [Hq, W, D] of dtype, after RoPE
  const void* keys = nullptr;  // [H, T, D] of dtype, after RoPE
  const float* lse = nullptr;  // [Hq, W] natural logarithm, queries side by side
  float* votes = nullptr;      // [Hq, num_keys]
  DType dtype = DType::kBf16;
  size_t num_query_heads = 0;   // Hq
  size_t num_kv_heads = 0;      // H
  size_t window = 0;            // W
  size_t num_keys = 0;          // the keys that count: 0 .. num_keys - 1
  size_t head_dim = 0;          // D
  size_t q_head_stride = 0;     // elements from one head's queries to the next's, and from one
  size_t q_row_stride = 0;      // query to the next: multiples of 8
  size_t lse_head_stride = 0;   // elements, at least W
  size_t key_head_stride = 0;   // elements from one KV head's keys to the next's: T * D
  size_t votes_row_stride = 0;  // elements, at least num_keys
  size_t first_position = 0;    // of the window's first query
  bool accumulate = false;
};
absl::Status WindowVotes(cudaStream_t stream, const WindowVotesArgs& args);

// The two implementations: by warps, on any device, and on Hopper by warpgroups, whose products
// read the keys from shared memory once for all query heads.
absl::Status WindowVotesSm80(cudaStream_t stream, const WindowVotesArgs& args);
absl::Status WindowVotesSm90(cudaStream_t stream, const WindowVotesArgs& args);
// As WindowVotesSm90(), but one thread copies the keys in boxes (TMA). No GPU has run it yet: the
// first that does decides which of the two is deleted, and until then WindowVotes() uses the
// measured one. Also FailedPrecondition if the driver cannot make tensor maps.
absl::Status WindowVotesTma(cudaStream_t stream, const WindowVotesArgs& args);

// The checks of all of them: InvalidArgument naming what is wrong.
absl::Status CheckWindowVotes(const WindowVotesArgs& args);

// As WindowVotes(), by one thread per vote, in float32 without tensor cores: the tests' reference.
absl::Status WindowVotesNaive(cudaStream_t stream, const WindowVotesArgs& args);

}  // namespace kvship::cuda
