#include "kv/compact_layer.h"

namespace kvship {

LayerLayout LayoutOf(const KvPlan& plan, std::span<const uint32_t> kept_tokens) {
  LayerLayout layout;
  for (uint32_t tokens : kept_tokens) {
    const size_t prefix_tokens = tokens - plan.tail_tokens;
    HeadBytes head;
    head.positions_offset = layout.num_bytes;
    head.num_positions = plan.keeps_whole ? 0 : prefix_tokens;
    head.pages_offset = head.positions_offset + head.num_positions * sizeof(int32_t);
    head.num_pages = PagesFor(prefix_tokens);
    layout.num_bytes = head.pages_offset + head.num_pages * PageBytes(plan.format, plan.head_dim);
    layout.heads.push_back(head);
  }
  layout.tails_offset = layout.num_bytes;
  layout.tail_bytes = PagesFor(plan.tail_tokens) * PageBytes(plan.window_format, plan.head_dim);
  layout.num_bytes += plan.num_kv_heads * layout.tail_bytes;
  return layout;
}

}  // namespace kvship
