// recall@B: of the B prompt tokens that generation attends to most, the share that is among the B
// tokens which a policy kept before it could see any of that. The oracle is the attention itself,
// not pooled: pooling is one policy's guess at it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/local_run.h"

namespace kvship {

// What the tokens after a prompt give each of its T tokens: sums of softmax(q.k / sqrt(D)) over
// their queries and the KV head's query heads, [L][H][T].
using FutureAttention = std::vector<std::vector<std::vector<float>>>;

// Of up to `num_tokens` tokens that the full cache in f16 generates greedily, an end token among
// them; the last one's query is not counted, for nothing is generated from it.
// Errors: InvalidArgument where fewer than 2 are generated, and as LocalRun.
absl::StatusOr<FutureAttention> MeasureFutureAttention(LocalRun& run,
                                                       const std::vector<int32_t>& prompt,
                                                       size_t num_tokens);

// recall@B of one head among the positions [begin, end): `kept`, ascending, has B there, and B
// positions of the largest `future` [T] are wanted, of equal ones the smallest. NaN where B is 0.
double RecallOf(std::span<const float> future, std::span<const int32_t> kept, size_t begin,
                size_t end);

// Means over the heads that keep any token there; NaN where none does.
struct LayerRecall {
  double all = 0;  // the whole prompt
  // Without the first tokens and the observation window, which nearly every policy keeps: the same
  // positions for all policies with the same window.
  double middle = 0;
};

// Per layer, each head's B its own. Sets per query head are held against their KV head's oracle.
std::vector<LayerRecall> Recalls(const FutureAttention& future,
                                 const LocalRun::Prefilled& prefilled);

}  // namespace kvship
