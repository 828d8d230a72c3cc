// KvPlan says how many tokens of a prompt each layer keeps and what they take: known, or bounded,
// before the prompt is read, so that the decode side can reserve exactly that. Both sides compute
// it from the same options. Plain data.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/page_layout.h"
#include "kv/compression_options.h"
#include "kv/shape.h"

namespace kvship {

// What a head of one layer keeps. Of an allocator that shares among heads, `tokens` is their mean.
struct HeadBudget {
  size_t tokens = 0;         // always-kept ones included
  size_t sinks = 0;          // always kept at the start
  size_t recent_tokens = 0;  // and at the end

  bool operator==(const HeadBudget&) const = default;
};

struct KvPlan {
  size_t prompt_tokens = 0;  // T
  size_t head_dim = 0;
  PageFormat format = PageFormat::kF16;
  size_t num_kv_heads = 0;
  // Sets of kept tokens per layer: one per KV head, or per query head with GroupReduce::kNone.
  size_t num_heads = 0;
  // The whole prompt is kept, in order: positions need not be chosen nor sent.
  bool keeps_whole = false;
  // The observation window [window_begin, window_end); empty where the whole prompt is kept.
  size_t window_begin = 0;
  size_t window_end = 0;
  // The last tokens of every head that travel and stay in `window_format`, in pages of the KV
  // heads' tails; 0 where they are pages of the prefix as all others.
  size_t tail_tokens = 0;
  PageFormat window_format = PageFormat::kF16;
  std::vector<HeadBudget> budgets = {};  // per layer; none where the whole prompt is kept
  // Per layer, over its heads together, tail_tokens included: exactly, or at most where `bounded`.
  std::vector<size_t> layer_tokens = {};
  // What heads keep is known only as the prompt is read.
  bool bounded = false;

  bool operator==(const KvPlan&) const = default;

  // Pages of the prefixes of one layer, at most: each head's last page may be filled in part.
  size_t layer_pages(size_t layer) const;
  size_t num_pages() const;
  // Pages of one layer's tails that come with the prompt.
  size_t layer_tail_pages() const { return num_kv_heads * PagesFor(tail_tokens); }
  // Bytes of pages, and bytes that cross the wire (pages and positions), at most.
  size_t page_bytes() const;
  size_t wire_bytes() const;
  // Bytes that a full cache would take on the wire: keep_all in the same number format, or in f16
  // where the format quantizes.
  size_t uncompressed_bytes() const;
};

// Errors: InvalidArgument if the options are invalid, the prompt is empty or too short for the
// window, the head size does not suit the number format, or a layer's budget does not hold the
// tokens that are always kept.
absl::StatusOr<KvPlan> MakePlan(const CompressionOptions& options, const KvShape& shape,
                                size_t prompt_tokens);

// Chunks that a layer keeps by the "chunks" selector, of its budget in tokens per head (kvpress'
// ChunkKVPress: the share kept, of the prompt's chunks, rounded down, at least one).
size_t NumChunks(const CompressionOptions& options, size_t prompt_tokens, size_t budget_tokens);

}  // namespace kvship
