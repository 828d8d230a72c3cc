#include "decode_service/kv_report.h"

namespace kvship {

v1::KvReport MakeKvReport(const SequenceCache& cache, std::span<const LayerHeader> layers) {
  v1::KvReport report;
  double kept_tokens = 0;
  double retained_mass = 0;
  double chosen_mass = 0;
  double num_heads = 0;
  double least = 2;  // above any share
  for (const LayerHeader& layer : layers) {
    for (size_t h = 0; h < layer.kept_tokens.size(); ++h) {
      kept_tokens += layer.kept_tokens[h];
      retained_mass += layer.retained_mass[h];
      chosen_mass += layer.chosen_mass[h];
      num_heads += 1;
      if (layer.retained_mass[h] < least) {
        least = layer.retained_mass[h];
        report.set_retained_mass_min_layer(static_cast<uint32_t>(layer.layer));
        report.set_retained_mass_min_head(static_cast<uint32_t>(h));
      }
    }
    v1::LayerReport& out = *report.add_layers();
    out.mutable_kept_tokens()->Assign(layer.kept_tokens.begin(), layer.kept_tokens.end());
    out.mutable_retained_mass()->Assign(layer.retained_mass.begin(), layer.retained_mass.end());
    out.mutable_chosen_mass()->Assign(layer.chosen_mass.begin(), layer.chosen_mass.end());
  }
  report.set_kept_tokens(kept_tokens / num_heads);
  report.set_retained_mass_mean(retained_mass / num_heads);
  report.set_retained_mass_min(least);
  report.set_chosen_mass_mean(chosen_mass / num_heads);
  report.set_uncompressed_bytes(cache.plan().uncompressed_bytes());
  report.set_pool_bytes(cache.prompt_bytes());
  return report;
}

}  // namespace kvship
