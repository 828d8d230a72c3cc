// Measures which tokens of a prefix the windows of a text vote for, and which of them its later
// queries attend to, for studies of how stable attention is (SnapKV, arXiv 2404.14469, section 3).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/local_run.h"

namespace kvship {

struct WindowAttentionOptions {
  size_t prefix_tokens = 0;  // the keys considered: [0, prefix_tokens)
  // Windows that begin at or after this token are examined query by query.
  size_t generated_from = SIZE_MAX;
  double voted_share = 0.05;      // of the prefix, the share that a window votes for
  double attended_weight = 0.05;  // a query attends to keys with more of its attention than this
};

struct TokenWindow {
  size_t begin = 0;
  size_t end = 0;
};

// Positions of the prefix for one window, ascending, [layer][KV head].
struct WindowAttention {
  using Positions = std::vector<std::vector<std::vector<int32_t>>>;
  Positions voted;     // most of the window's votes, summed over the group's query heads
  Positions attended;  // by any query in any head of the group; empty before generated_from
};

// InvalidArgument if there is no window, or one is empty, reaches past the tokens or begins in the
// prefix.
absl::StatusOr<std::vector<WindowAttention>> MeasureWindowAttention(
    LocalRun& run, const std::vector<int32_t>& tokens, const std::vector<TokenWindow>& windows,
    const WindowAttentionOptions& options);

}  // namespace kvship
