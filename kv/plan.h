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

struct KvPlan {
  size_t prompt_tokens = 0;  // T
  size_t head_dim = 0;
  PageFormat format = PageFormat::kF16;
  // Sets of kept tokens per layer: one per KV head, or per query head with GroupReduce::kNone.
  size_t num_heads = 0;
  // The whole prompt is kept, in order: positions need not be chosen nor sent.
  bool keeps_whole = false;
  std::vector<size_t> layer_tokens;  // per layer, over its heads together; heads keep equally many

  bool operator==(const KvPlan&) const = default;

  // Pages of one layer: each head's last page may be filled in part.
  size_t layer_pages(size_t layer) const;
  size_t num_pages() const;
  // Bytes of pages, and bytes that cross the wire (pages and positions).
  size_t page_bytes() const { return num_pages() * PageBytes(format, head_dim); }
  size_t wire_bytes() const;
};

// Errors: InvalidArgument if the options are invalid, the prompt is empty, or a ratio budget of
// this prompt does not hold the tokens that are always kept.
absl::StatusOr<KvPlan> MakePlan(const CompressionOptions& options, const KvShape& shape,
                                size_t prompt_tokens);

}  // namespace kvship
