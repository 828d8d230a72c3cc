// Which tokens of a prefix the windows of a text vote for, and which of them its later queries
// attend to: what studies of how stable attention is are made of (SnapKV, arXiv 2404.14469,
// section 3).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/local_run.h"

namespace kvship {

struct WindowAttentionOptions {
  size_t prefix_tokens = 0;  // the keys that are looked at: [0, prefix_tokens)
  // The last windows, those that begin at or after this token, are looked at query by query.
  size_t generated_from = SIZE_MAX;
  double voted_share = 0.05;      // of the prefix, the share that a window votes for
  double attended_weight = 0.05;  // what a query attends to has more of its attention than this
};

struct TokenWindow {
  size_t begin = 0;
  size_t end = 0;
};

// Of one window, positions of the prefix, ascending, [layer][KV head].
struct WindowAttention {
  using Positions = std::vector<std::vector<std::vector<int32_t>>>;
  Positions voted;     // the window's best by its votes, those of the group's query heads summed
  Positions attended;  // by any query of the window in any head of the group; else empty
};

// Errors: InvalidArgument if a window is empty, reaches past the tokens or begins in the prefix.
absl::StatusOr<std::vector<WindowAttention>> MeasureWindowAttention(
    LocalRun& run, const std::vector<int32_t>& tokens, const std::vector<TokenWindow>& windows,
    const WindowAttentionOptions& options);

}  // namespace kvship
