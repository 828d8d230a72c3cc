// The operations of a mixture of experts around its products, on the GPU: a router's logits choose
// experts, rows are grouped by expert, and the results are added up. Results do not depend on the
// order in which blocks run. Errors: InvalidArgument if sizes or number formats are not as below,
// else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"

namespace kvship::cuda {

inline constexpr size_t kMostExperts = 512;  // E

// All pointers are device memory aligned to 16 bytes. Each of M tokens goes through K of E experts.

// experts[m] = those with the K largest of logits[m], the largest first, ties to the first expert;
// NaN is the smallest logit. weights[m] = their shares of a softmax over all experts or, if
// `normalizes`, over the chosen ones; NaN if a logit is. Sources: engine/expert_routing.h.
struct ChooseExpertsArgs {
  const float* logits = nullptr;  // [M, E]
  uint32_t* experts = nullptr;    // [M, K]
  float* weights = nullptr;       // [M, K]
  size_t num_tokens = 0;          // M
  size_t num_experts = 0;         // E
  size_t experts_per_token = 0;   // K
  bool normalizes = false;
};
absl::Status ChooseExperts(cudaStream_t stream, const ChooseExpertsArgs& args);

// The rows of one expert among all grouped rows.
struct ExpertRows {
  uint32_t expert;
  uint32_t first;
  uint32_t count;
};

// Gives each chosen expert of each token a row of its own: positions[m, j] is the row of experts[m,
// j]. Rows of an expert are consecutive, in the order of their tokens; the first is a multiple of
// `multiple`, and rows between its last and the next expert's first are unused. `runs` has the
// experts with rows first, then those without, each in ascending order.
struct GroupByExpertArgs {
  const uint32_t* experts = nullptr;  // [M, K], each below E
  uint32_t* positions = nullptr;      // [M, K]
  ExpertRows* runs = nullptr;         // [E]
  size_t num_tokens = 0;              // M
  size_t num_experts = 0;             // E
  size_t experts_per_token = 0;       // K
  size_t multiple = 1;
};
absl::Status GroupByExpert(cudaStream_t stream, const GroupByExpertArgs& args);

// The most experts that can have rows, and the most rows that grouping can take.
inline size_t MostActiveExperts(const GroupByExpertArgs& args) {
  const size_t num_choices = args.num_tokens * args.experts_per_token;
  return num_choices < args.num_experts ? num_choices : args.num_experts;
}
inline size_t MostGroupedRows(const GroupByExpertArgs& args) {
  return args.num_tokens * args.experts_per_token + MostActiveExperts(args) * (args.multiple - 1);
}

// rows[positions[m, j]] = x[m]. x [M, C], rows [most grouped, C] of 16-bit numbers; C is a multiple
// of 8.
struct SpreadRowsArgs {
  const void* x = nullptr;
  const uint32_t* positions = nullptr;  // [M, K]
  void* rows = nullptr;
  size_t num_tokens = 0;         // M
  size_t experts_per_token = 0;  // K
  size_t width = 0;              // C
};
absl::Status SpreadRows(cudaStream_t stream, const SpreadRowsArgs& args);

// x[m] += sum over j of weights[m, j] rows[positions[m, j]], in float32 and rounded once.
struct CollectRowsArgs {
  const void* rows = nullptr;           // as above
  const uint32_t* positions = nullptr;  // [M, K]
  const float* weights = nullptr;       // [M, K]
  void* x = nullptr;                    // [M, C]
  DType dtype = DType::kBf16;
  size_t num_tokens = 0;         // M
  size_t experts_per_token = 0;  // K
  size_t width = 0;              // C
};
absl::Status CollectRows(cudaStream_t stream, const CollectRowsArgs& args);

}  // namespace kvship::cuda
