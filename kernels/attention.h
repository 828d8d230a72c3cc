// Attention of a block of prompt tokens over the prompt so far, and of a decode batch over pages.
// Softmax is online, in float32, over key tiles that start at fixed positions, so that a row's
// result depends neither on how the prompt was cut into blocks nor on the number of threads.
#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "base/tensor_view.h"
#include "kernels/backend.h"
#include "kernels/page_layout.h"

namespace kvship {

// Causal attention of M consecutive queries, the first at position `first_position`.
//
// Shapes: q [M, Hq, D], keys and values [H, T, D] (rows 0 .. first_position + M - 1 are read), all
// f32 after RoPE; out [M, Hq * D] f32; lse [Hq, M] f32, the natural logarithm of each row's sum of
// exp(q.k / sqrt(D)), or empty. Query head h reads KV head h / (Hq / H). Source: FlashAttention-2,
// arXiv 2307.08691.
//
// kFast may round a row of q and of keys to 16-bit integers (an error in q.k of about 1e-5 |q| |k|)
// and probabilities and values to bfloat16. lse follows the rounded scores.
//
// Errors: InvalidArgument if the shapes do not fit.
struct PromptAttentionArgs {
  TensorView q;
  TensorView keys;
  TensorView values;
  size_t first_position = 0;
  Arithmetic arithmetic = Arithmetic::kFast;
  TensorView out;
  TensorView lse;
};
absl::Status PromptAttention(Backend& backend, const PromptAttentionArgs& args);

// The cached tokens that one or more query heads attend to: pages of an immutable prefix, then
// pages of the tail. Every slot is visible. The query is that of the tail's last token.
struct PagedHead {
  std::span<const std::byte* const> prefix_pages;
  size_t num_prefix_tokens = 0;
  std::span<const std::byte* const> tail_pages;
  size_t num_tail_tokens = 0;
};

// Attention of B sequences, one query token each, over one-head pages.
//
// Shapes: q [B, Hq, D] f32 after RoPE; out [B, Hq * D] f32. `heads` lists one sequence after the
// other, with `num_heads[b]` entries for sequence b (its KV heads, or its query heads if the prefix
// was chosen per query head); entry i serves the query heads [i * Hq / num_heads[b], (i + 1) * Hq /
// num_heads[b]). Prefixes are in prefix_formats[b], tails in tail_formats[b], a float format. Work
// is split at fixed numbers of tokens and merged by log-sum-exp, so a sequence's result does not
// depend on the rest of the batch. Source: flash decoding, arXiv 2311.01282.
//
// Errors: InvalidArgument if the shapes do not fit, a head has no token or fewer pages than its
// tokens fill, D is not a multiple of 16, or not of 32 with int8 or int4, or a tail is quantized.
struct PagedAttentionArgs {
  TensorView q;
  std::span<const PagedHead> heads;
  std::span<const size_t> num_heads;
  std::span<const PageFormat> prefix_formats;
  std::span<const PageFormat> tail_formats;
  TensorView out;
};
absl::Status PagedAttention(Backend& backend, const PagedAttentionArgs& args);

// Writes one token's K and V rows [D] f32 into slot `slot` of a page of a float format.
void WritePageSlot(PageFormat format, size_t head_dim, size_t slot, const float* key,
                   const float* value, std::byte* page);

// Gathers the tokens `positions` of one KV head, in that order, into `pages` (PagesFor(n) pages one
// after the other, the last one padded with zeros). keys, values [T, D] f32.
void GatherPages(PageFormat format, TensorView keys, TensorView values,
                 std::span<const int32_t> positions, std::byte* pages);

// Reads a page's tokens as floats: keys, values [num_tokens, D], num_tokens up to kPageTokens.
void ReadPage(PageFormat format, const std::byte* page, TensorView keys, TensorView values);

}  // namespace kvship
