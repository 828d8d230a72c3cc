#include "engine/query_key_value.h"

#include "base/status_macros.h"
#include "kernels/elementwise.h"

namespace kvship {

absl::Status FinishQueryKeyValue(Backend& backend, const ModelConfig& config,
                                 const LayerWeights& layer, TensorView qkv) {
  if (!layer.qkv_bias.empty()) RETURN_IF_ERROR(AddBias(backend, layer.qkv_bias, qkv));
  if (layer.query_norm.empty()) return absl::OkStatus();
  const TensorView heads = qkv.SplitLast(config.num_query_heads + 2 * config.num_kv_heads);
  const TensorView queries = heads.Slice(1, 0, config.num_query_heads);
  const TensorView keys = heads.Slice(1, config.num_query_heads, config.num_kv_heads);
  RETURN_IF_ERROR(RmsNorm(backend, queries, layer.query_norm, config.norm_epsilon, queries));
  return RmsNorm(backend, keys, layer.key_norm, config.norm_epsilon, keys);
}

}  // namespace kvship
