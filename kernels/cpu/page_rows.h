// The tokens that go onto one page, where they lie.
#pragma once

#include <cstddef>

#include "kernels/page_layout.h"

namespace kvship {

struct PageRows {
  const float* rows[kPageTokens];  // each [D]
  size_t num_tokens;
  size_t head_dim;
};

}  // namespace kvship
