// KvShape is the shape of a model's KV cache. Plain data.
#pragma once

#include <cstddef>

namespace kvship {

struct KvShape {
  size_t num_layers = 0;       // L
  size_t num_kv_heads = 0;     // H
  size_t num_query_heads = 0;  // Hq
  size_t head_dim = 0;         // D
};

}  // namespace kvship
