// Operations that turn a layer's queries and keys into votes for tokens, and votes into a
// selection. All are in float32, and each number is computed by the same sequence of operations
// whatever the tiling and the number of threads: the selection is bit-identical for identical Q and
// K. Errors: InvalidArgument if the shapes do not fit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/backend.h"

namespace kvship {

// How much W consecutive queries, the first at position `first_position`, attend to each key:
//
//   votes[h, i] = sum over w of exp(q[h,w].k[i] / sqrt(D) - lse[h,w]),
//                 zero where i > first_position + w
//
// One pass over K. Shapes: q [Hq, W, D], keys [H, T, D] f32 after RoPE, lse [Hq, W] f32 -> votes
// [Hq, num_keys] f32, num_keys <= T: of the keys [0, num_keys). Source: SnapKV, arXiv 2404.14469.
//
// With `accumulate` the queries' attention is added to the existing votes, query by query, so that
// a prompt's column sums do not depend on the blocks in which its queries came.
struct WindowVotesArgs {
  TensorView q;
  TensorView keys;
  TensorView lse;
  size_t first_position = 0;
  bool accumulate = false;
  TensorView votes;
};
absl::Status WindowVotes(Backend& backend, const WindowVotesArgs& args);

// Log-sum-exp of q.k / sqrt(D) over the keys [0, num_keys) that each query may see, for scorers
// whose softmax does not run over the whole prompt. Shapes as above; lse [Hq, W] f32 is written,
// -inf where a query sees none of them.
absl::Status WindowLogSumExp(Backend& backend, TensorView q, TensorView keys, size_t num_keys,
                             size_t first_position, TensorView lse);

enum class Pooling : uint8_t { kNone, kAverage, kMax };

// out[r, i] = average or maximum of in[r, i - kernel/2 .. i + kernel/2]. The average counts the
// zero padding at the edges (divides by `kernel` there too), the maximum pads with -infinity.
// kernel is odd; InvalidArgument if not. in, out [R, T] f32, not the same memory.
absl::Status PoolScores(Backend& backend, TensorView in, Pooling pooling, size_t kernel,
                        TensorView out);

enum class GroupReduce : uint8_t { kNone, kMean, kMax, kSum };

// out[g, i] = mean, maximum or sum of in[g * G .. g * G + G - 1, i], in that order. in [H * G, T],
// out [H, T] f32.
absl::Status ReduceGroups(Backend& backend, TensorView in, GroupReduce reduce, TensorView out);

// out[h, i] = norm2(x[h, i]). x [H, T, D], out [H, T] f32.
absl::Status RowNorms(Backend& backend, TensorView x, TensorView out);

// The positions of the k largest scores, ascending; all if k >= the number of scores. Ties at the
// boundary go to the smallest position; NaN counts as the smallest score.
std::vector<int32_t> TopPositions(std::span<const float> scores, size_t k);

// The same positions in descending order of their scores.
std::vector<int32_t> RankedPositions(std::span<const float> scores, size_t k);

}  // namespace kvship
