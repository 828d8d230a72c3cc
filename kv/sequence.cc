#include "kv/sequence.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {

std::array<KvPool::Demand, 2> SequenceCache::Demands(const KvShape& shape, const KvPlan& plan,
                                                     size_t max_generated_tokens,
                                                     PageFormat tail_format) {
  const PageFormat format = plan.tail_tokens > 0 ? plan.window_format : tail_format;
  const size_t tail_pages = PagesFor(plan.tail_tokens + max_generated_tokens);
  return {KvPool::Demand{PageBytes(plan.format, shape.head_dim), plan.num_pages()},
          KvPool::Demand{PageBytes(format, shape.head_dim),
                         shape.num_layers * shape.num_kv_heads * tail_pages}};
}

size_t SequenceCache::BytesFor(const KvShape& shape, const KvPlan& plan,
                               size_t max_generated_tokens, PageFormat tail_format) {
  size_t num_bytes = 0;
  for (const KvPool::Demand& demand : Demands(shape, plan, max_generated_tokens, tail_format)) {
    num_bytes += demand.num_bytes();
  }
  return num_bytes;
}

SequenceCache::SequenceCache(KvPool& pool)
    : pool_(pool), id_([] {
        static std::atomic<uint64_t> num_caches = 0;
        return ++num_caches;
      }()) {}

absl::StatusOr<std::unique_ptr<SequenceCache>> SequenceCache::Reserve(KvPool& pool,
                                                                      const KvShape& shape,
                                                                      const KvPlan& plan,
                                                                      size_t max_generated_tokens,
                                                                      PageFormat tail_format) {
  std::unique_ptr<SequenceCache> cache(new SequenceCache(pool));
  cache->shape_ = shape;
  cache->plan_ = plan;
  cache->tail_format_ = plan.tail_tokens > 0 ? plan.window_format : tail_format;
  cache->num_tail_tokens_ = plan.tail_tokens;
  cache->max_tail_tokens_ = plan.tail_tokens + max_generated_tokens;
  cache->tail_pages_per_head_ = PagesFor(cache->max_tail_tokens_);
  ASSIGN_OR_RETURN(cache->pages_,
                   pool.Reserve(Demands(shape, plan, max_generated_tokens, tail_format)));
  cache->layers_.reserve(shape.num_layers);
  return cache;
}

absl::Status SequenceCache::CheckLayer(size_t layer, std::span<const uint32_t> kept_tokens) const {
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
    if (tokens > plan_.prompt_tokens || tokens < plan_.tail_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has a head that keeps ",
                                                     tokens, " tokens; wanted ", plan_.tail_tokens,
                                                     " to ", plan_.prompt_tokens));
    }
    layer_tokens += tokens;
    layer_pages += PagesFor(tokens - plan_.tail_tokens);
  }
  if (layer_tokens > plan_.layer_tokens[layer] || layer_pages > plan_.layer_pages(layer) ||
      (plan_.keeps_whole && layer_tokens != plan_.layer_tokens[layer])) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layer ", layer, " keeps ", layer_tokens, " tokens in ", layer_pages,
        " pages; the plan has ", plan_.layer_tokens[layer], " in ", plan_.layer_pages(layer)));
  }
  return absl::OkStatus();
}

absl::Status SequenceCache::BeginLayer(size_t layer, std::span<const uint32_t> kept_tokens) {
  RETURN_IF_ERROR(CheckLayer(layer, kept_tokens));
  layout_ = LayoutOf(plan_, kept_tokens);
  Layer& added = layers_.emplace_back();
  positions_.clear();
  for (size_t h = 0; h < kept_tokens.size(); ++h) {
    const HeadBytes& head = layout_.heads[h];
    added.prefix_tokens.push_back(kept_tokens[h] - static_cast<uint32_t>(plan_.tail_tokens));
    added.first_page.push_back(num_prefix_pages_);
    positions_.emplace_back(head.num_positions);
    num_prefix_pages_ += head.num_pages;
  }
  return absl::OkStatus();
}

SequenceCache::Place SequenceCache::PlaceOf(size_t offset) {
  Layer& layer = layers_.back();
  if (offset >= layout_.tails_offset) {
    const size_t page_bytes = PageBytes(tail_format_, plan_.head_dim);
    const size_t within = offset - layout_.tails_offset;
    const size_t kv_head = within / layout_.tail_bytes;
    const size_t page = within % layout_.tail_bytes / page_bytes;
    std::byte* const target = tail_page(layers_.size() - 1, kv_head, page * kPageTokens);
    return {std::span(target, page_bytes).subspan(within % page_bytes)};
  }
  // The last head that begins at or before the offset and has bytes: others begin where the next
  // one does.
  auto begins_after = [](size_t at, const HeadBytes& head) { return at < head.positions_offset; };
  const size_t h = static_cast<size_t>(
      std::upper_bound(layout_.heads.begin(), layout_.heads.end(), offset, begins_after) -
      layout_.heads.begin() - 1);
  const HeadBytes& head = layout_.heads[h];
  if (offset < head.pages_offset) {
    const std::span<std::byte> positions = std::as_writable_bytes(std::span(positions_[h]));
    return {positions.subspan(offset - head.positions_offset), /*in_pool=*/false};
  }
  const size_t page_bytes = PageBytes(plan_.format, plan_.head_dim);
  const size_t within = offset - head.pages_offset;
  std::byte* const page = pages_.pages(0)[layer.first_page[h] + within / page_bytes];
  return {std::span(page, page_bytes).subspan(within % page_bytes)};
}

namespace {

// Pages mostly are neighbours on both sides, and a large copy costs little more than a small one.
void AddCopy(std::byte* to, std::span<const std::byte> from,
             std::vector<KvPool::PageBytes>* copies) {
  if (!copies->empty()) {
    KvPool::PageBytes& last = copies->back();
    if (last.to + last.from.size() == to && last.from.data() + last.from.size() == from.data()) {
      last.from = {last.from.data(), last.from.size() + from.size()};
      return;
    }
  }
  copies->push_back({to, from});
}

}  // namespace

absl::Status SequenceCache::WriteLayerBytes(size_t offset, std::span<const std::byte> bytes,
                                            BytesIn memory) {
  if (layers_.empty() || offset > layout_.num_bytes || bytes.size() > layout_.num_bytes - offset) {
    return absl::InvalidArgumentError(absl::StrCat("bytes ", offset, " to ", offset + bytes.size(),
                                                   " came for a layer of ", layout_.num_bytes));
  }
  std::vector<KvPool::PageBytes> for_writer;
  while (!bytes.empty()) {
    const Place place = PlaceOf(offset);
    const size_t n = std::min(place.bytes.size(), bytes.size());
    const bool by_host = !place.in_pool && memory == BytesIn::kHost;
    if (by_host || pool_.writer() == nullptr) {
      std::memcpy(place.bytes.data(), bytes.data(), n);
    } else {
      AddCopy(place.bytes.data(), bytes.first(n), &for_writer);
    }
    offset += n;
    bytes = bytes.subspan(n);
  }
  return for_writer.empty() ? absl::OkStatus() : pool_.writer()(for_writer);
}

void SequenceCache::AppendPagedHeads(size_t layer, size_t num_tail_tokens,
                                     std::vector<PagedHead>* heads) const {
  const Layer& from = layers_[layer];
  for (size_t h = 0; h < plan_.num_heads; ++h) {
    const size_t kv_head = h * shape_.num_kv_heads / plan_.num_heads;
    PagedHead& head = heads->emplace_back();
    head.prefix_pages =
        pages_.pages(0).subspan(from.first_page[h], PagesFor(from.prefix_tokens[h]));
    head.num_prefix_tokens = from.prefix_tokens[h];
    head.tail_pages = pages_.pages(1).subspan(
        (layer * shape_.num_kv_heads + kv_head) * tail_pages_per_head_, PagesFor(num_tail_tokens));
    head.num_tail_tokens = num_tail_tokens;
  }
}

size_t SequenceCache::prompt_bytes() const {
  return num_prefix_pages_ * PageBytes(plan_.format, plan_.head_dim) +
         layers_.size() * plan_.layer_tail_pages() * PageBytes(tail_format_, plan_.head_dim);
}

std::byte* SequenceCache::tail_page(size_t layer, size_t kv_head, size_t tail_token) {
  return pages_.pages(
      1)[(layer * shape_.num_kv_heads + kv_head) * tail_pages_per_head_ + tail_token / kPageTokens];
}

}  // namespace kvship
