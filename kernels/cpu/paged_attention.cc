#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/cpu/token_run.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/paged_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/token_run-inl.h"

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(RunScratchFloats);
HWY_EXPORT(AttendRun);

// Where the runs of one PagedHead are, and where their sum goes.
struct HeadRuns {
  size_t first_run;
  size_t num_runs;
  float* out;  // [num_queries, D]
};

// The runs' outputs weighted by their sums, in the runs' order.
void MergeRuns(std::span<const TokenRun> runs, float* out) {
  const size_t head_dim = runs[0].head_dim;
  for (size_t g = 0; g < runs[0].num_queries; ++g, out += head_dim) {
    const size_t offset = g * PartialFloats(head_dim);
    float max = -HUGE_VALF;
    for (const TokenRun& run : runs) max = std::max(max, run.partial[offset]);
    float sum = 0.0f;
    for (const TokenRun& run : runs) {
      sum += run.partial[offset + 1] * std::exp2(run.partial[offset] - max);
    }
    std::fill_n(out, head_dim, 0.0f);
    for (const TokenRun& run : runs) {
      const float* const partial = run.partial + offset;
      const float weight = std::exp2(partial[0] - max) / sum;
      for (size_t i = 0; i < head_dim; ++i) out[i] += weight * partial[2 + i];
    }
  }
}

void AppendRuns(std::span<const std::byte* const> pages, size_t num_tokens, TokenRun run,
                std::vector<TokenRun>& runs) {
  for (size_t begin = 0; begin < num_tokens; begin += kRunTokens) {
    run.pages = pages.data() + begin / kPageTokens;
    run.num_tokens = std::min(kRunTokens, num_tokens - begin);
    runs.push_back(run);
  }
}

absl::Status CheckFormats(PageFormat prefix, PageFormat tail, size_t head_dim) {
  if (IsQuantized(tail)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tail in ", PageFormatName(tail), ", wanted f32, f16 or bf16"));
  }
  if ((prefix == PageFormat::kInt8 || prefix == PageFormat::kInt4) && head_dim % kValueGroup != 0) {
    return absl::InvalidArgumentError(absl::StrCat("head size ", head_dim, " in ",
                                                   PageFormatName(prefix),
                                                   ", wanted a multiple of ", kValueGroup));
  }
  return absl::OkStatus();
}

absl::Status CheckArgs(const PagedAttentionArgs& args) {
  if (args.q.rank != 3 || args.out.rank != 2) {
    return absl::InvalidArgumentError("paged attention wants q [B, Hq, D] and out [B, Hq * D]");
  }
  const auto [batch, query_heads, head_dim, unused] = args.q.dims;
  if (head_dim == 0 || head_dim % 16 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head size ", head_dim, ", wanted a multiple of 16"));
  }
  if (args.num_heads.size() != batch || args.prefix_formats.size() != batch ||
      args.tail_formats.size() != batch || args.out.dims[0] != batch ||
      args.out.dims[1] != query_heads * head_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of ", batch, " with ", args.num_heads.size(), " head counts, ",
                     args.prefix_formats.size(), " and ", args.tail_formats.size(),
                     " formats and out [", args.out.dims[0], ", ", args.out.dims[1], "], wanted [",
                     batch, ", ", query_heads * head_dim, "]"));
  }
  for (size_t b = 0; b < batch; ++b) {
    RETURN_IF_ERROR(CheckFormats(args.prefix_formats[b], args.tail_formats[b], head_dim));
  }
  size_t num_heads = 0;
  for (size_t n : args.num_heads) {
    if (n == 0 || query_heads % n != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(query_heads, " query heads are not a multiple of ", n, " cached heads"));
    }
    num_heads += n;
  }
  if (num_heads != args.heads.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(args.heads.size(), " cached heads, wanted ", num_heads));
  }
  for (const PagedHead& head : args.heads) {
    if (head.num_prefix_tokens + head.num_tail_tokens == 0) {
      return absl::InvalidArgumentError("a cached head without tokens, wanted at least 1");
    }
    if (head.prefix_pages.size() < PagesFor(head.num_prefix_tokens) ||
        head.tail_pages.size() < PagesFor(head.num_tail_tokens)) {
      return absl::InvalidArgumentError(absl::StrCat(
          head.prefix_pages.size(), " and ", head.tail_pages.size(), " pages for ",
          head.num_prefix_tokens, " and ", head.num_tail_tokens, " tokens of prefix and tail"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PagedAttention(Backend& backend, const PagedAttentionArgs& args) {
  if (absl::Status valid = CheckArgs(args); !valid.ok()) return valid;
  const auto [batch, query_heads, head_dim, unused] = args.q.dims;
  std::vector<TokenRun> runs;
  std::vector<HeadRuns> heads;
  heads.reserve(args.heads.size());
  size_t partial_floats = 0;
  size_t max_queries = 0;
  for (size_t b = 0; b < batch; ++b) {
    const size_t group = query_heads / args.num_heads[b];
    max_queries = std::max(max_queries, group);
    for (size_t i = 0; i < args.num_heads[b]; ++i) {
      const PagedHead& head = args.heads[heads.size()];
      TokenRun run{.pages = nullptr,
                   .num_tokens = 0,
                   .format = args.prefix_formats[b],
                   .q = args.q.f32(b, i * group),
                   .num_queries = group,
                   .head_dim = head_dim,
                   .partial = nullptr};
      const size_t first_run = runs.size();
      AppendRuns(head.prefix_pages, head.num_prefix_tokens, run, runs);
      run.format = args.tail_formats[b];
      AppendRuns(head.tail_pages, head.num_tail_tokens, run, runs);
      heads.push_back({.first_run = first_run,
                       .num_runs = runs.size() - first_run,
                       .out = args.out.f32(b) + i * group * head_dim});
      partial_floats += heads.back().num_runs * group * PartialFloats(head_dim);
    }
  }
  const size_t floats_per_thread = HWY_DYNAMIC_DISPATCH(RunScratchFloats)(max_queries, head_dim);
  const size_t num_threads = backend.threads().num_threads();
  float* const memory = reinterpret_cast<float*>(
      backend.Scratch((num_threads * floats_per_thread + partial_floats) * sizeof(float)));
  float* partial = memory + num_threads * floats_per_thread;
  for (TokenRun& run : runs) {
    run.partial = partial;
    partial += run.num_queries * PartialFloats(head_dim);
  }
  backend.threads().ParallelForWithThread(runs.size(), [&](size_t task, size_t thread) {
    HWY_DYNAMIC_DISPATCH(AttendRun)(runs[task], memory + thread * floats_per_thread);
  });
  for (const HeadRuns& head : heads) {
    MergeRuns(std::span(runs).subspan(head.first_run, head.num_runs), head.out);
  }
  return absl::OkStatus();
}

}  // namespace kvship
#endif  // HWY_ONCE
