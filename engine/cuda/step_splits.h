// The splits of a decode step's attention (kernels/cuda/paged_attention.h): their numbers in every
// layer, and the scratch that they take. Host code, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/attention.h"

namespace kvship::cuda {

struct StepSplits {
  std::vector<uint32_t> first_split;  // [L, B * S + 1], S sets of kept tokens of a sequence
  size_t num_splits = 0;  // the most of any layer; rounded up, so that batches share captured steps
};

// Rows of scratch, of SplitRowBytes() each, for batches of up to `max_sequences` whose caches are
// in a pool of `pool_bytes`. They suffice for any one sequence, and for any batch in which no layer
// has more than twice its share of the pool.
size_t MostSplitRows(const ModelConfig& config, size_t max_sequences, size_t pool_bytes);

// Numbers the splits of heads [L, B, S] with all their pages of the next steps. A split takes
// `rows_per_split` rows of scratch. ResourceExhausted if a layer takes more than `most_rows`.
absl::StatusOr<StepSplits> NumberSplits(std::span<const kvship::PagedHead> heads, size_t num_layers,
                                        size_t rows_per_split, size_t most_rows);

}  // namespace kvship::cuda
