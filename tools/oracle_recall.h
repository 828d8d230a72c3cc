// recall@B: of the B prompt tokens that generation attends to most, the share that a policy kept
// when it chose B tokens in advance. The oracle is the attention itself, not pooled: pooling is one
// policy's guess at it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/local_run.h"

namespace kvship {

// The attention that each of a prompt's T tokens gets from the tokens after the prompt: sums of
// softmax(q.k / sqrt(D)) over their queries and the KV head's query heads, [L][H][T].
using FutureAttention = std::vector<std::vector<std::vector<float>>>;

// Measures it over up to `num_tokens` tokens that the full cache in f16 generates greedily, an end
// token included; the last token's query does not count, as nothing is generated from it.
// InvalidArgument if fewer than 2 tokens are generated; other errors as LocalRun.
absl::StatusOr<FutureAttention> MeasureFutureAttention(LocalRun& run,
                                                       const std::vector<int32_t>& prompt,
                                                       size_t num_tokens);

// recall@B of one head within the positions [begin, end). `kept`, ascending, has B of them; the
// oracle is the B of them with the largest `future` [T], ties to the smallest. NaN if B is 0.
double RecallOf(std::span<const float> future, std::span<const int32_t> kept, size_t begin,
                size_t end);

// Means over the heads that keep any token there; NaN if none does.
struct LayerRecall {
  double all = 0;  // the whole prompt
  // Excludes the first tokens and the observation window, which nearly every policy keeps: the same
  // positions for all policies with the same window.
  double middle = 0;
};

// Per layer, with each head's own B. Sets per query head are compared with their KV head's oracle.
std::vector<LayerRecall> Recalls(const FutureAttention& future,
                                 const LocalRun::Prefilled& prefilled);

}  // namespace kvship
