#include "engine/kv_shape.h"

namespace kvship {

KvShape ShapeOf(const ModelConfig& config) {
  return {.num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .num_query_heads = config.num_query_heads,
          .head_dim = config.head_dim};
}

}  // namespace kvship
