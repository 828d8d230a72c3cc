#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"

// A run of tokens of one PagedHead that one task attends to.
#ifndef KVSHIP_KERNELS_CPU_PAGED_ATTENTION_RUN_
#define KVSHIP_KERNELS_CPU_PAGED_ATTENTION_RUN_
namespace kvship {

// Fixed, so that a result does not depend on what else runs; 512 tokens of a head of 64 are 128 KiB
// of f16, some 10 us of work.
inline constexpr size_t kRunTokens = 512;

struct TokenRun {
  const std::byte* const* pages;  // the first begins with the first token
  size_t num_tokens;
  PageFormat format;
  const float* q;  // [num_queries, D], rows D apart
  size_t num_queries;
  size_t head_dim;
  float* partial;  // per query: maximum in units of log 2, sum, then out [D] not yet divided by it
};

inline size_t PartialFloats(size_t head_dim) { return head_dim + 2; }

}  // namespace kvship
#endif  // KVSHIP_KERNELS_CPU_PAGED_ATTENTION_RUN_

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/paged_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/page_elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Query heads that share one conversion of a row to floats; 4 keys at a time make 16 sums of it.
constexpr size_t kMaxTogether = HWY_TARGET <= HWY_AVX3 ? 4 : 3;
// Vectors of the output row that the second product adds to at a time.
constexpr size_t kOutVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// Memory of one thread, in floats: scaled queries [G, D], scores [G, kRunTokens].
size_t RunScratchFloats(size_t num_queries, size_t head_dim) {
  return num_queries * (head_dim + kRunTokens);
}

// Stores the sums of the lanes of a, b, c and e side by side.
HWY_INLINE void StoreSumsOfLanes(FloatVec a, FloatVec b, FloatVec c, FloatVec e, float* to) {
#if HWY_TARGET == HWY_SCALAR
  to[0] = hn::GetLane(a);
  to[1] = hn::GetLane(b);
  to[2] = hn::GetLane(c);
  to[3] = hn::GetLane(e);
#else
  const FloatTag d;
  const hn::Repartition<double, FloatTag> dd;
  const auto ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const auto ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto low = hn::InterleaveLower(dd, hn::BitCast(dd, ab), hn::BitCast(dd, ce));
  const auto high = hn::InterleaveUpper(dd, hn::BitCast(dd, ab), hn::BitCast(dd, ce));
  const FloatVec sums = hn::Add(hn::BitCast(d, low), hn::BitCast(d, high));
  // Each 128-bit block has four partial sums: add the blocks.
  if constexpr (hn::MaxLanes(d) == 4) {
    hn::StoreU(sums, d, to);
  } else {
    const hn::Half<FloatTag> half;
    const auto folded = hn::Add(hn::LowerHalf(half, sums), hn::UpperHalf(half, sums));
    if constexpr (hn::MaxLanes(half) == 4) {
      hn::StoreU(folded, half, to);
    } else {
      const hn::Half<decltype(half)> quarter;
      hn::StoreU(hn::Add(hn::LowerHalf(quarter, folded), hn::UpperHalf(quarter, folded)), quarter,
                 to);
    }
  }
#endif
}

// scores[g][t] = q[g].key[t] for the tokens of one page, rounded up to a multiple of four: slots
// past the end hold zeros or older rows, whose scores are not read.
template <PageFormat kFormat, size_t kQueries>
HWY_INLINE void ScorePage(const float* HWY_RESTRICT q, const std::byte* HWY_RESTRICT page,
                          const std::byte* next_page, size_t num_tokens, size_t head_dim,
                          float* HWY_RESTRICT scores) {
  const FloatTag d;
  const size_t row_bytes = head_dim * PageElementBytes(kFormat);
  for (size_t t = 0; t < num_tokens; t += 4) {
    for (size_t byte = 0; byte < 4 * row_bytes; byte += 64) {
      __builtin_prefetch(next_page + t * row_bytes + byte);
    }
    FloatVec sum[kQueries][4];
#pragma GCC unroll 4
    for (size_t g = 0; g < kQueries; ++g) {
      sum[g][0] = sum[g][1] = sum[g][2] = sum[g][3] = hn::Zero(d);
    }
    const std::byte* const rows = page + t * row_bytes;
    for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
#pragma GCC unroll 4
      for (size_t k = 0; k < 4; ++k) {
        const FloatVec key = LoadElements<kFormat>(rows + k * row_bytes, i);
#pragma GCC unroll 4
        for (size_t g = 0; g < kQueries; ++g) {
          sum[g][k] = hn::MulAdd(key, hn::LoadU(d, q + g * head_dim + i), sum[g][k]);
        }
      }
    }
#pragma GCC unroll 4
    for (size_t g = 0; g < kQueries; ++g) {
      StoreSumsOfLanes(sum[g][0], sum[g][1], sum[g][2], sum[g][3], scores + g * kRunTokens + t);
    }
  }
}

// out[g] += sum over t of p[g][t] * value[t], kVectors vectors of each row.
template <PageFormat kFormat, size_t kQueries, size_t kVectors>
HWY_INLINE void AddValues(const float* HWY_RESTRICT p, const std::byte* HWY_RESTRICT values,
                          size_t num_tokens, size_t first, size_t head_dim, size_t out_stride,
                          float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t row_bytes = head_dim * PageElementBytes(kFormat);
  FloatVec sum[kQueries][kVectors];
#pragma GCC unroll 4
  for (size_t g = 0; g < kQueries; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      sum[g][v] = hn::LoadU(d, out + g * out_stride + first + v * lanes);
    }
  }
  for (size_t t = 0; t < num_tokens; ++t) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const FloatVec value = LoadElements<kFormat>(values + t * row_bytes, first + v * lanes);
#pragma GCC unroll 4
      for (size_t g = 0; g < kQueries; ++g) {
        sum[g][v] = hn::MulAdd(value, hn::Set(d, p[g * kRunTokens + t]), sum[g][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t g = 0; g < kQueries; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sum[g][v], d, out + g * out_stride + first + v * lanes);
    }
  }
}

template <PageFormat kFormat, size_t kQueries>
HWY_INLINE void AddPage(const float* p, const std::byte* values, const std::byte* next_values,
                        size_t num_tokens, size_t head_dim, size_t out_stride, float* out) {
  const size_t lanes = hn::Lanes(FloatTag());
  for (size_t byte = 0; byte < num_tokens * head_dim * PageElementBytes(kFormat); byte += 64) {
    __builtin_prefetch(next_values + byte);
  }
  size_t i = 0;
  for (; i + kOutVectors * lanes <= head_dim; i += kOutVectors * lanes) {
    AddValues<kFormat, kQueries, kOutVectors>(p, values, num_tokens, i, head_dim, out_stride, out);
  }
  for (; i < head_dim; i += lanes) {
    AddValues<kFormat, kQueries, 1>(p, values, num_tokens, i, head_dim, out_stride, out);
  }
}

// scores -> 2^(score - maximum), and the maximum and sum of each query.
void SoftmaxRun(size_t num_tokens, float* scores, float* partial) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  size_t padded = num_tokens;
  while (padded % lanes != 0) scores[padded++] = -HUGE_VALF;
  FloatVec max = hn::Set(d, -HUGE_VALF);
  for (size_t t = 0; t < padded; t += lanes) max = hn::Max(max, hn::LoadU(d, scores + t));
  max = hn::MaxOfLanes(d, max);
  FloatVec sum = hn::Zero(d);
  for (size_t t = 0; t < padded; t += lanes) {
    const FloatVec p = Exp2(hn::Sub(hn::LoadU(d, scores + t), max));
    sum = hn::Add(sum, p);
    hn::StoreU(p, d, scores + t);
  }
  partial[0] = hn::GetLane(max);
  partial[1] = hn::GetLane(hn::SumOfLanes(d, sum));
}

template <PageFormat kFormat, size_t kQueries>
void ScoreRun(const TokenRun& run, const float* q, float* scores) {
  for (size_t t = 0; t < run.num_tokens; t += kPageTokens) {
    const std::byte* const* const page = run.pages + t / kPageTokens;
    const bool last = t + kPageTokens >= run.num_tokens;
    ScorePage<kFormat, kQueries>(q, page[0], last ? page[0] : page[1],
                                 std::min(kPageTokens, run.num_tokens - t), run.head_dim,
                                 scores + t);
  }
}

template <PageFormat kFormat, size_t kQueries>
void AddRun(const TokenRun& run, const float* scores, float* out) {
  const size_t offset = PageValuesOffset(kFormat, run.head_dim);
  for (size_t t = 0; t < run.num_tokens; t += kPageTokens) {
    const std::byte* const* const page = run.pages + t / kPageTokens;
    const bool last = t + kPageTokens >= run.num_tokens;
    AddPage<kFormat, kQueries>(scores + t, page[0] + offset, (last ? page[0] : page[1]) + offset,
                               std::min(kPageTokens, run.num_tokens - t), run.head_dim,
                               PartialFloats(run.head_dim), out);
  }
}

template <PageFormat kFormat, size_t kQueries>
void AttendQueries(const TokenRun& run, size_t first_query, const float* q, float* scores) {
  const size_t stride = PartialFloats(run.head_dim);
  float* const partial = run.partial + first_query * stride;
  ScoreRun<kFormat, kQueries>(run, q + first_query * run.head_dim, scores);
  for (size_t g = 0; g < kQueries; ++g) {
    SoftmaxRun(run.num_tokens, scores + g * kRunTokens, partial + g * stride);
    std::fill_n(partial + g * stride + 2, run.head_dim, 0.0f);
  }
  AddRun<kFormat, kQueries>(run, scores, partial + 2);
}

template <PageFormat kFormat>
void AttendFormat(const TokenRun& run, const float* q, float* scores) {
  size_t g = 0;
  while (g < run.num_queries) {
    const size_t left = run.num_queries - g;
    if (kMaxTogether >= 4 && left >= 4) {
      AttendQueries<kFormat, 4>(run, g, q, scores);
      g += 4;
    } else if (left >= 3) {
      AttendQueries<kFormat, 3>(run, g, q, scores);
      g += 3;
    } else if (left == 2) {
      AttendQueries<kFormat, 2>(run, g, q, scores);
      g += 2;
    } else {
      AttendQueries<kFormat, 1>(run, g, q, scores);
      g += 1;
    }
  }
}

void AttendRun(const TokenRun& run, float* memory) {
  const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(run.head_dim)));
  float* const q = memory;
  float* const scores = memory + run.num_queries * run.head_dim;
  for (size_t i = 0; i < run.num_queries * run.head_dim; ++i) q[i] = run.q[i] * scale;
  switch (run.format) {
    case PageFormat::kF32: AttendFormat<PageFormat::kF32>(run, q, scores); break;
    case PageFormat::kF16: AttendFormat<PageFormat::kF16>(run, q, scores); break;
    case PageFormat::kBf16: AttendFormat<PageFormat::kBf16>(run, q, scores); break;
    default: break;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

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
      args.out.dims[0] != batch || args.out.dims[1] != query_heads * head_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of ", batch, " with ", args.num_heads.size(), " head counts, ",
                     args.prefix_formats.size(), " formats and out [", args.out.dims[0], ", ",
                     args.out.dims[1], "], wanted [", batch, ", ", query_heads * head_dim, "]"));
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
      run.format = args.tail_format;
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
