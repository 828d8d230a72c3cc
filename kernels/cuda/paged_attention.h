// Decode attention on the GPU: one query token per sequence over one-head pages, PagedAttention()
// of kernels/attention.h. Errors: InvalidArgument if sizes, strides or number formats are not as
// below, else those of Launch() in launch.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {

// The cached tokens of one sequence and KV head: pages of the prefix, then of the tail. In device
// memory, as are the arrays of page addresses and the pages (aligned to 16 bytes).
struct PagedHead {
  const std::byte* const* prefix_pages = nullptr;
  const std::byte* const* tail_pages = nullptr;
  uint32_t num_prefix_tokens = 0;
  uint32_t num_tail_tokens = 0;
};

// Work is split into runs of this many pages, whatever the batch: a sequence's result does not
// depend on the rest of the batch.
inline constexpr int kSplitPages = 8;

// The largest B * H.
inline constexpr size_t kMostPagedHeads = 65535;

// Pages of a head, and which of its tokens are on page `page`, counted through prefix and tail.
constexpr uint32_t NumPages(const PagedHead& head) {
  return static_cast<uint32_t>(PagesFor(head.num_prefix_tokens) + PagesFor(head.num_tail_tokens));
}
struct PageSlice {
  bool in_tail;
  uint32_t page;        // in the prefix or in the tail
  uint32_t num_tokens;  // valid in the page; 0 past the end
};
constexpr PageSlice SliceOf(const PagedHead& head, uint32_t page) {
  const uint32_t prefix_pages = static_cast<uint32_t>(PagesFor(head.num_prefix_tokens));
  const bool in_tail = page >= prefix_pages;
  const uint32_t own_page = in_tail ? page - prefix_pages : page;
  const uint32_t total = in_tail ? head.num_tail_tokens : head.num_prefix_tokens;
  const uint32_t first = own_page * static_cast<uint32_t>(kPageTokens);
  const uint32_t left = first < total ? total - first : 0;
  return {in_tail, own_page, left < kPageTokens ? left : static_cast<uint32_t>(kPageTokens)};
}

// Splits of a head with `num_pages` pages. A head without tokens has one, which gives zeros.
constexpr uint32_t NumSplits(uint32_t num_pages) {
  return num_pages <= kSplitPages ? 1 : (num_pages + kSplitPages - 1) / kSplitPages;
}

// Attention of B sequences. Every slot is visible; a head without tokens gives zeros. Prefixes are
// in `prefix_format`, any but f32, tails in that of `dtype`. Values in another format are rounded
// to `dtype` once, so results are those of a prefix in `dtype`. Hq / H is at most 16, D 64 or 128.
// Splits are numbered through the heads; splits without pages yet, and those from first_split[B *
// H] to num_splits, do nothing. Memory: device memory; `workspace` of
// PagedAttentionWorkspaceBytes(), not needed if num_splits is B * H.
struct PagedAttentionArgs {
  const void* q = nullptr;           // [B, Hq, D] of dtype, after RoPE, q_row_stride apart
  const PagedHead* heads = nullptr;  // [B, H]
  // [B * H + 1]: the first split of each head, and the end of the last head's; ascending from 0,
  // with at least NumSplits(NumPages(head)) splits per head.
  const uint32_t* first_split = nullptr;
  void* out = nullptr;  // [B, Hq * D] of dtype
  void* workspace = nullptr;
  DType dtype = DType::kBf16;  // of q, out and the tails
  PageFormat prefix_format = PageFormat::kBf16;
  size_t num_sequences = 0;    // B
  size_t num_query_heads = 0;  // Hq
  size_t num_kv_heads = 0;     // H
  size_t head_dim = 0;         // D
  size_t q_row_stride = 0;     // elements from one sequence's queries to the next's
  size_t num_splits = 0;       // at least first_split[B * H]; B * H: no head has two
};
// The workspace has a row for each split and query head of its KV head: num_splits * Hq / H.
constexpr size_t SplitRowBytes(size_t head_dim) { return (head_dim + 2) * sizeof(float); }
size_t PagedAttentionWorkspaceBytes(const PagedAttentionArgs& args);
absl::Status PagedAttention(cudaStream_t stream, const PagedAttentionArgs& args);

}  // namespace kvship::cuda
