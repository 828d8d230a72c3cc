#include "kv/sequence.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {

absl::StatusOr<std::unique_ptr<SequenceCache>> SequenceCache::Reserve(KvPool& pool,
                                                                      const KvShape& shape,
                                                                      const KvPlan& plan,
                                                                      size_t max_tail_tokens,
                                                                      PageFormat tail_format) {
  std::unique_ptr<SequenceCache> cache(new SequenceCache());
  cache->shape_ = shape;
  cache->plan_ = plan;
  cache->tail_format_ = tail_format;
  cache->max_tail_tokens_ = max_tail_tokens;
  cache->tail_pages_per_head_ = PagesFor(max_tail_tokens);
  const std::array<KvPool::Demand, 2> demands = {
      KvPool::Demand{PageBytes(plan.format, shape.head_dim), plan.num_pages()},
      KvPool::Demand{PageBytes(tail_format, shape.head_dim),
                     shape.num_layers * shape.num_kv_heads * cache->tail_pages_per_head_}};
  ASSIGN_OR_RETURN(cache->pages_, pool.Reserve(demands));
  cache->layers_.reserve(shape.num_layers);
  return cache;
}

absl::Status SequenceCache::BeginLayer(size_t layer, std::span<const uint32_t> kept_tokens) {
  if (layer != layers_.size() || layer >= shape_.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " came; wanted layer ",
                                                   layers_.size(), " of ", shape_.num_layers));
  }
  if (kept_tokens.size() != plan_.num_heads) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has ", kept_tokens.size(),
                                                   " heads; the plan has ", plan_.num_heads));
  }
  size_t layer_tokens = 0;
  size_t layer_pages = 0;
  for (uint32_t tokens : kept_tokens) {
    layer_tokens += tokens;
    layer_pages += PagesFor(tokens);
    if (tokens > plan_.prompt_tokens) layer_tokens = SIZE_MAX / 2;  // no head keeps more than all
  }
  if (layer_tokens > plan_.layer_tokens[layer] || layer_pages > plan_.layer_pages(layer) ||
      (plan_.keeps_whole && layer_tokens != plan_.layer_tokens[layer])) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layer ", layer, " keeps ", layer_tokens, " tokens in ", layer_pages,
        " pages; the plan has ", plan_.layer_tokens[layer], " in ", plan_.layer_pages(layer)));
  }
  layout_ = LayoutOf(plan_, kept_tokens);
  Layer& added = layers_.emplace_back();
  added.kept_tokens.assign(kept_tokens.begin(), kept_tokens.end());
  for (const HeadBytes& head : layout_.heads) {
    added.first_page.push_back(num_prefix_pages_);
    added.positions.emplace_back(head.num_positions);
    num_prefix_pages_ += head.num_pages;
  }
  return absl::OkStatus();
}

absl::Status SequenceCache::WriteLayerBytes(size_t offset, std::span<const std::byte> bytes) {
  if (layers_.empty() || offset > layout_.num_bytes || bytes.size() > layout_.num_bytes - offset) {
    return absl::InvalidArgumentError(absl::StrCat("bytes ", offset, " to ", offset + bytes.size(),
                                                   " came for a layer of ", layout_.num_bytes));
  }
  const size_t page_bytes = PageBytes(plan_.format, plan_.head_dim);
  Layer& layer = layers_.back();
  // The last head that begins at or before the offset.
  auto begins_after = [](size_t at, const HeadBytes& head) { return at < head.positions_offset; };
  size_t h = std::upper_bound(layout_.heads.begin(), layout_.heads.end(), offset, begins_after) -
             layout_.heads.begin() - 1;
  while (!bytes.empty()) {
    const HeadBytes& head = layout_.heads[h];
    std::byte* target;
    size_t room;
    if (offset < head.pages_offset) {
      const size_t within = offset - head.positions_offset;
      target = reinterpret_cast<std::byte*>(layer.positions[h].data()) + within;
      room = head.pages_offset - offset;
    } else {
      const size_t within = offset - head.pages_offset;
      if (within >= head.num_pages * page_bytes) {
        ++h;  // heads that keep nothing take no bytes
        continue;
      }
      target = pages_.pages(0)[layer.first_page[h] + within / page_bytes] + within % page_bytes;
      room = page_bytes - within % page_bytes;
    }
    const size_t n = std::min(room, bytes.size());
    std::memcpy(target, bytes.data(), n);
    offset += n;
    bytes = bytes.subspan(n);
  }
  return absl::OkStatus();
}

void SequenceCache::AppendPagedHeads(size_t layer, size_t num_tail_tokens,
                                     std::vector<PagedHead>* heads) const {
  const Layer& from = layers_[layer];
  for (size_t h = 0; h < plan_.num_heads; ++h) {
    const size_t kv_head = h * shape_.num_kv_heads / plan_.num_heads;
    PagedHead& head = heads->emplace_back();
    head.prefix_pages = pages_.pages(0).subspan(from.first_page[h], PagesFor(from.kept_tokens[h]));
    head.num_prefix_tokens = from.kept_tokens[h];
    head.tail_pages = pages_.pages(1).subspan(
        (layer * shape_.num_kv_heads + kv_head) * tail_pages_per_head_, PagesFor(num_tail_tokens));
    head.num_tail_tokens = num_tail_tokens;
  }
}

std::byte* SequenceCache::tail_page(size_t layer, size_t kv_head, size_t tail_token) {
  return pages_.pages(
      1)[(layer * shape_.num_kv_heads + kv_head) * tail_pages_per_head_ + tail_token / kPageTokens];
}

}  // namespace kvship
