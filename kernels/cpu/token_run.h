// A run of tokens of one cached head that one task of decode attention attends to.
#pragma once

#include <cstddef>

#include "kernels/page_layout.h"

namespace kvship {

// Fixed, so that a result does not depend on what else runs; 512 tokens of a head of 64 are 128 KiB
// of f16, some 10 us of work.
inline constexpr size_t kRunTokens = 512;

struct TokenRun {
  const std::byte* const* pages;  // the first begins with the first token
  size_t num_tokens;
  PageFormat format;
  const float* q;  // [num_queries, D], rows D apart
  size_t num_queries;
  size_t head_dim;
  float* partial;  // per query: maximum in units of log 2, sum, then out [D] not yet divided by it
};

inline size_t PartialFloats(size_t head_dim) { return head_dim + 2; }

}  // namespace kvship
