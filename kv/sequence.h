// SequenceCache is one sequence's KV cache on the decode side: per layer an immutable prefix (one
// list of pages per head that kept a set of its own) and a tail in full precision per KV head (the
// prompt's last tokens where the plan keeps them there, then what is generated), in pages reserved
// from a pool before the prompt was read. Positions are original: the first generated token stands
// at position T, however few prompt tokens were kept.
//
// Filled by one thread (WriteLayerBytes), then used by the decode loop; not thread safe.
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
  // Reserves the pages of the plan, and those of a tail with room for `max_generated_tokens` per
  // layer and KV head, in the plan's window_format where it has tail_tokens, else in `tail_format`.
  // Errors: as KvPool::Reserve.
  static absl::StatusOr<std::unique_ptr<SequenceCache>> Reserve(KvPool& pool, const KvShape& shape,
                                                                const KvPlan& plan,
                                                                size_t max_generated_tokens,
                                                                PageFormat tail_format);
  // What Reserve takes from a pool: prefix pages, and tail pages.
  static std::array<KvPool::Demand, 2> Demands(const KvShape& shape, const KvPlan& plan,
                                               size_t max_generated_tokens, PageFormat tail_format);

  // The bytes of that.
  static size_t BytesFor(const KvShape& shape, const KvPlan& plan, size_t max_generated_tokens,
                         PageFormat tail_format);

  const KvPlan& plan() const { return plan_; }
  const KvShape& shape() const { return shape_; }
  PageFormat tail_format() const { return tail_format_; }
  // Another one for each cache of the process.
  uint64_t id() const { return id_; }
  size_t pool_bytes() const { return pages_.num_bytes(); }
  // Of these, what holds the prompt's tokens.
  size_t prompt_bytes() const;
  size_t num_tail_tokens() const { return num_tail_tokens_; }
  size_t max_tail_tokens() const { return max_tail_tokens_; }
  size_t next_position() const {
    return plan_.prompt_tokens + num_tail_tokens_ - plan_.tail_tokens;
  }

  // Announces how many tokens each head of the next layer keeps. Layers come in order.
  // InvalidArgument if the counts do not fit the plan; then nothing has changed.
  absl::Status BeginLayer(size_t layer, std::span<const uint32_t> kept_tokens);

  // Writes bytes of the layer that was begun last, at `offset` of its bytes, from the host's memory
  // or that of the pool's device. InvalidArgument if they reach past its end; other errors are the
  // pool's Writer's.
  absl::Status WriteLayerBytes(size_t offset, std::span<const std::byte> bytes,
                               BytesIn memory = BytesIn::kHost);

  // Gives back the prefix pages that the layers did not fill, once all have come.
  void GiveBackUnusedPages() { pages_.Truncate(0, num_prefix_pages_); }

  // Bytes of the layer that was begun last.
  size_t layer_bytes() const { return layout_.num_bytes; }

  // Original positions of the tokens in a head's prefix, as received; empty where the whole prompt
  // was kept.
  std::span<const int32_t> positions(size_t layer, size_t head) const {
    return layers_[layer].positions[head];
  }

  // Appends what attention of one layer reads to `heads`, the tail with `num_tail_tokens` tokens.
  void AppendPagedHeads(size_t layer, size_t num_tail_tokens, std::vector<PagedHead>* heads) const;

  // The page and slot of a tail token.
  std::byte* tail_page(size_t layer, size_t kv_head, size_t tail_token);

  // Counts a token whose K and V have been written in every layer.
  void AdvanceTail() { ++num_tail_tokens_; }

 private:
  struct Layer {
    std::vector<uint32_t> prefix_tokens;          // per prefix head
    std::vector<size_t> first_page;               // of each prefix head, in the prefix demand
    std::vector<std::vector<int32_t>> positions;  // per prefix head
  };

  explicit SequenceCache(KvPool& pool);

  absl::Status CheckLayer(size_t layer, std::span<const uint32_t> kept_tokens) const;
  // Where the byte at `offset` of the layer begun last goes, and how many may follow it there.
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
  LayerLayout layout_;  // of the layer begun last
};

}  // namespace kvship
