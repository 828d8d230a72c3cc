// SequenceCache is one sequence's KV cache on the decode side. Each layer has an immutable prefix,
// a list of pages per head with its own kept set, and a tail in full precision per KV head: the
// prompt's last tokens, if the plan keeps them there, then generated tokens. All pages are reserved
// from a pool before the prompt is read. Positions are original: the first generated token is at
// position T, however few prompt tokens were kept.
//
// Filled by one thread (WriteLayerBytes), then used by the decode loop. Not thread safe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kv/compact_layer.h"
#include "kv/plan.h"
#include "kv/pool.h"
#include "kv/shape.h"

namespace kvship {

enum class BytesIn { kHost, kDevice };

class SequenceCache {
 public:
  // Reserves the plan's pages and, per layer and KV head, tail pages with room for
  // `max_generated_tokens` more. The tail's format is the plan's window_format if it has
  // tail_tokens, else `tail_format`. Errors: as KvPool::Reserve.
  static absl::StatusOr<std::unique_ptr<SequenceCache>> Reserve(KvPool& pool, const KvShape& shape,
                                                                const KvPlan& plan,
                                                                size_t max_generated_tokens,
                                                                PageFormat tail_format);
  // The demands that Reserve makes: prefix pages, then tail pages.
  static std::array<KvPool::Demand, 2> Demands(const KvShape& shape, const KvPlan& plan,
                                               size_t max_generated_tokens, PageFormat tail_format);

  // The total bytes of those demands.
  static size_t BytesFor(const KvShape& shape, const KvPlan& plan, size_t max_generated_tokens,
                         PageFormat tail_format);

  const KvPlan& plan() const { return plan_; }
  const KvShape& shape() const { return shape_; }
  PageFormat tail_format() const { return tail_format_; }
  // Unique among the caches of this process.
  uint64_t id() const { return id_; }
  size_t pool_bytes() const { return pages_.num_bytes(); }
  // The part of pool_bytes that holds the prompt's tokens.
  size_t prompt_bytes() const;
  size_t num_tail_tokens() const { return num_tail_tokens_; }
  size_t max_tail_tokens() const { return max_tail_tokens_; }
  size_t next_position() const {
    return plan_.prompt_tokens + num_tail_tokens_ - plan_.tail_tokens;
  }

  // Begins the next layer and sets how many tokens each of its heads keeps. Layers come in order.
  // InvalidArgument, leaving the cache unchanged, if the counts do not fit the plan.
  absl::Status BeginLayer(size_t layer, std::span<const uint32_t> kept_tokens);

  // Writes bytes at `offset` of the layer begun last, from host memory or from the memory of the
  // pool's device. InvalidArgument if they would reach past the layer's end; other errors are those
  // of the pool's Writer.
  absl::Status WriteLayerBytes(size_t offset, std::span<const std::byte> bytes,
                               BytesIn memory = BytesIn::kHost);

  // Returns unused prefix pages to the pool. Call it after the last layer.
  void GiveBackUnusedPages() { pages_.Truncate(0, num_prefix_pages_); }

  // The size of the layer begun last.
  size_t layer_bytes() const { return layout_.num_bytes; }

  // Original positions of the tokens in a head's prefix, as received, of the layer begun last;
  // empty if the whole prompt was kept. Nothing needs those of earlier layers.
  std::span<const int32_t> positions(size_t head) const { return positions_[head]; }

  // Appends a PagedHead per head of a layer to `heads`; tails have `num_tail_tokens` tokens.
  void AppendPagedHeads(size_t layer, size_t num_tail_tokens, std::vector<PagedHead>* heads) const;

  // The page that holds a tail token.
  std::byte* tail_page(size_t layer, size_t kv_head, size_t tail_token);

  // Advances the tail by one token, whose K and V must have been written in every layer.
  void AdvanceTail() { ++num_tail_tokens_; }

 private:
  struct Layer {
    std::vector<uint32_t> prefix_tokens;  // per prefix head
    std::vector<size_t> first_page;       // of each prefix head, in the prefix demand
  };

  explicit SequenceCache(KvPool& pool);

  absl::Status CheckLayer(size_t layer, std::span<const uint32_t> kept_tokens) const;
  // Where the byte at `offset` of the layer begun last goes, and the contiguous room from there on.
  struct Place {
    std::span<std::byte> bytes;
    bool in_pool = true;  // else in host memory, with the positions
  };
  Place PlaceOf(size_t offset);

  KvPool& pool_;
  const uint64_t id_;
  KvShape shape_;
  KvPlan plan_;
  PageFormat tail_format_ = PageFormat::kF16;
  size_t max_tail_tokens_ = 0;
  size_t num_tail_tokens_ = 0;
  size_t tail_pages_per_head_ = 0;
  PageReservation pages_;        // demand 0: prefix pages, demand 1: tail pages
  size_t num_prefix_pages_ = 0;  // used by the layers begun so far
  std::vector<Layer> layers_;
  LayerLayout layout_;                           // of the layer begun last
  std::vector<std::vector<int32_t>> positions_;  // of its prefix heads
};

}  // namespace kvship
