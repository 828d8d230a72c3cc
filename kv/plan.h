// KvPlan says how many tokens of a prompt each layer keeps and how much memory they take. The
// numbers are exact, or upper bounds, before the prompt is read, so the decode side can reserve
// that much. Both sides compute the plan from the same options. Plain data.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/page_layout.h"
#include "kv/compression_options.h"
#include "kv/shape.h"

namespace kvship {

// What each head of one layer keeps; `tokens` is the mean if the allocator shares among heads.
struct HeadBudget {
  size_t tokens = 0;         // always-kept tokens included
  size_t sinks = 0;          // always kept at the start
  size_t recent_tokens = 0;  // always kept at the end

  bool operator==(const HeadBudget&) const = default;
};

struct KvPlan {
  size_t prompt_tokens = 0;  // T
  size_t head_dim = 0;
  PageFormat format = PageFormat::kF16;
  size_t num_kv_heads = 0;
  // Sets of kept tokens per layer: one per KV head, or per query head with GroupReduce::kNone.
  size_t num_heads = 0;
  // The whole prompt is kept in order, so positions are neither chosen nor sent.
  bool keeps_whole = false;
  // The observation window [window_begin, window_end); empty if the whole prompt is kept.
  size_t window_begin = 0;
  size_t window_end = 0;
  // The last tokens of every head that are sent and stored in `window_format`, in the pages of the
  // KV heads' tails. 0: all tokens are in the prefix pages.
  size_t tail_tokens = 0;
  PageFormat window_format = PageFormat::kF16;
  std::vector<HeadBudget> budgets = {};  // per layer; empty if the whole prompt is kept
  // Tokens per layer over all heads, tail_tokens included: exact, or the maximum if `bounded`.
  std::vector<size_t> layer_tokens = {};
  // The number of tokens that each head keeps is known only once the prompt has been read.
  bool bounded = false;

  bool operator==(const KvPlan&) const = default;

  // The most prefix pages that one layer takes. Each head's last page may be partly filled.
  size_t layer_pages(size_t layer) const;
  size_t num_pages() const;
  // Tail pages of one layer that arrive with the prompt.
  size_t layer_tail_pages() const { return num_kv_heads * PagesFor(tail_tokens); }
  // The most bytes that the pages take, and that cross the wire (pages and positions).
  size_t page_bytes() const;
  size_t wire_bytes() const;
  // Bytes of the full cache on the wire: keep_all in the same format, or in f16 if the format
  // quantizes.
  size_t uncompressed_bytes() const;
};

// InvalidArgument if the options are invalid, the prompt is empty or too short for the window, the
// head size does not suit the number format, or a layer's budget cannot hold the always-kept
// tokens.
absl::StatusOr<KvPlan> MakePlan(const CompressionOptions& options, const KvShape& shape,
                                size_t prompt_tokens);

// Chunks that a layer keeps with the "chunks" selector, given its budget in tokens per head: that
// share of the prompt's chunks, rounded down, at least one. Source: kvpress' ChunkKVPress.
size_t NumChunks(const CompressionOptions& options, size_t prompt_tokens, size_t budget_tokens);

}  // namespace kvship
