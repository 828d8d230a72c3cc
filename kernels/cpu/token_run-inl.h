// Decode attention of a few queries over one run of tokens, compiled once per SIMD target: scores
// straight from the page's elements, online softmax over the run, weighted sum of its values.
// Quantized pages are never unpacked: their scales go into the queries and into the weights.

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/page_elements-inl.h"
#include "kernels/cpu/token_run.h"

#if defined(KVSHIP_KERNELS_CPU_TOKEN_RUN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_TOKEN_RUN_INL_H_
#undef KVSHIP_KERNELS_CPU_TOKEN_RUN_INL_H_
#else
#define KVSHIP_KERNELS_CPU_TOKEN_RUN_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Query heads that share one conversion of a row to floats; 4 keys at a time make 16 sums of it.
constexpr size_t kMaxTogether = HWY_TARGET <= HWY_AVX3 ? 4 : 3;
// Vectors of the output row that the second product adds to at a time.
constexpr size_t kOutVectors = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// Memory of one thread, in floats: queries [G, D], the same by a page's scales, scores [G,
// kRunTokens] and what the last vector reads past them.
size_t RunScratchFloats(size_t num_queries, size_t head_dim) {
  return num_queries * (2 * head_dim + kRunTokens);
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
  const size_t row_bytes = head_dim * PageElementBits(kFormat) / 8;
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

// The weights of a page's tokens for some of its channels: weights[g * stride + t], and what every
// channel gets besides (the minima of quantized values).
struct ValueWeights {
  const float* weights;
  size_t stride;
  const float* bias;  // [kQueries]; none for float formats
};

// out[g] += sum over t of p[g][t] * value[t], kVectors vectors of each row.
template <PageFormat kFormat, size_t kQueries, size_t kVectors>
HWY_INLINE void AddValues(const ValueWeights& p, const std::byte* HWY_RESTRICT values,
                          size_t num_tokens, size_t first, size_t head_dim, size_t out_stride,
                          float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t row_bytes = head_dim * PageElementBits(kFormat) / 8;
  FloatVec sum[kQueries][kVectors];
#pragma GCC unroll 4
  for (size_t g = 0; g < kQueries; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      sum[g][v] = hn::LoadU(d, out + g * out_stride + first + v * lanes);
      if constexpr (IsQuantized(kFormat)) {
        sum[g][v] = hn::Add(sum[g][v], hn::Set(d, p.bias[g]));
      }
    }
  }
  for (size_t t = 0; t < num_tokens; ++t) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const FloatVec value = LoadElements<kFormat>(values + t * row_bytes, first + v * lanes);
#pragma GCC unroll 4
      for (size_t g = 0; g < kQueries; ++g) {
        sum[g][v] = hn::MulAdd(value, hn::Set(d, p.weights[g * p.stride + t]), sum[g][v]);
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

// Channels [begin, end) of a page's values.
template <PageFormat kFormat, size_t kQueries>
HWY_INLINE void AddChannels(const ValueWeights& p, const std::byte* values, size_t num_tokens,
                            size_t begin, size_t end, size_t head_dim, size_t out_stride,
                            float* out) {
  const size_t lanes = hn::Lanes(FloatTag());
  size_t i = begin;
  for (; i + kOutVectors * lanes <= end; i += kOutVectors * lanes) {
    AddValues<kFormat, kQueries, kOutVectors>(p, values, num_tokens, i, head_dim, out_stride, out);
  }
  if constexpr (kOutVectors > 2) {  // a group of 32 channels is two vectors of AVX-512
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      AddValues<kFormat, kQueries, 2>(p, values, num_tokens, i, head_dim, out_stride, out);
    }
  }
  for (; i < end; i += lanes) {
    AddValues<kFormat, kQueries, 1>(p, values, num_tokens, i, head_dim, out_stride, out);
  }
}

// scaled[g] = q[g] times the scales of the page's keys, bias[g] = q[g] times their minima: a score
// is scaled.code + bias. scaled [kQueries, D].
template <PageFormat kFormat, size_t kQueries>
HWY_INLINE void ScaleQueries(const float* HWY_RESTRICT q, const std::byte* HWY_RESTRICT page,
                             size_t head_dim, float* HWY_RESTRICT scaled, float* bias) {
  const FloatTag d;
  const std::byte* const scales = page + PageScalesOffset(kFormat, head_dim);
  if constexpr (kFormat == PageFormat::kFp8) {
    const FloatVec scale = hn::Set(d, LoadElement<PageFormat::kF32>(scales, 0) * kFp8OfF16);
    for (size_t i = 0; i < kQueries * head_dim; i += hn::Lanes(d)) {
      hn::StoreU(hn::Mul(hn::LoadU(d, q + i), scale), d, scaled + i);
    }
    std::fill_n(bias, kQueries, 0.0f);
  } else {
    FloatVec sum[kQueries];
    for (size_t g = 0; g < kQueries; ++g) sum[g] = hn::Zero(d);
    for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
      const FloatVec scale = LoadElements<PageFormat::kBf16>(scales, i);
      const FloatVec minimum = LoadElements<PageFormat::kBf16>(scales, head_dim + i);
#pragma GCC unroll 4
      for (size_t g = 0; g < kQueries; ++g) {
        const FloatVec x = hn::LoadU(d, q + g * head_dim + i);
        hn::StoreU(hn::Mul(x, scale), d, scaled + g * head_dim + i);
        sum[g] = hn::MulAdd(x, minimum, sum[g]);
      }
    }
    for (size_t g = 0; g < kQueries; ++g) bias[g] = hn::GetLane(hn::SumOfLanes(d, sum[g]));
  }
}

// The weights p [kQueries, kRunTokens] times the scales that the page's values have for a group of
// channels, into weights [kQueries, kPageTokens], and the weighted minima into bias.
template <PageFormat kFormat, size_t kQueries>
HWY_INLINE void ScaleWeights(const float* HWY_RESTRICT p, const std::byte* HWY_RESTRICT page,
                             size_t num_tokens, size_t group, size_t head_dim,
                             float* HWY_RESTRICT weights, float* bias) {
  const FloatTag d;
  const std::byte* const scales = page + PageScalesOffset(kFormat, head_dim);
  if constexpr (kFormat == PageFormat::kFp8) {
    const float scale = LoadElement<PageFormat::kF32>(scales, 1) * kFp8OfF16;
    for (size_t g = 0; g < kQueries; ++g) {
      for (size_t t = 0; t < num_tokens; ++t) {
        weights[g * kPageTokens + t] = p[g * kRunTokens + t] * scale;
      }
      bias[g] = 0.0f;
    }
  } else {
    const size_t first_scale = 2 * head_dim + group * kPageTokens;
    const size_t first_minimum = first_scale + head_dim / kValueGroup * kPageTokens;
    FloatVec sum[kQueries];
    for (size_t g = 0; g < kQueries; ++g) sum[g] = hn::Zero(d);
    for (size_t t = 0; t < kPageTokens; t += hn::Lanes(d)) {
      const FloatVec scale = LoadElements<PageFormat::kBf16>(scales, first_scale + t);
      const FloatVec minimum = LoadElements<PageFormat::kBf16>(scales, first_minimum + t);
#pragma GCC unroll 4
      for (size_t g = 0; g < kQueries; ++g) {
        // Weights past the last token belong to no token of this page; their minima are zero.
        const FloatVec x = hn::LoadU(d, p + g * kRunTokens + t);
        hn::StoreU(hn::Mul(x, scale), d, weights + g * kPageTokens + t);
        sum[g] = hn::MulAdd(x, minimum, sum[g]);
      }
    }
    for (size_t g = 0; g < kQueries; ++g) bias[g] = hn::GetLane(hn::SumOfLanes(d, sum[g]));
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
  // Quantized pages weight all their slots, whatever lies there.
  while (padded % kPageTokens != 0) scores[padded++] = 0.0f;
  partial[0] = hn::GetLane(max);
  partial[1] = hn::GetLane(hn::SumOfLanes(d, sum));
}

// `scaled` is memory for [kQueries, D] floats.
template <PageFormat kFormat, size_t kQueries>
void ScoreRun(const TokenRun& run, const float* q, float* scaled, float* scores) {
  for (size_t t = 0; t < run.num_tokens; t += kPageTokens) {
    const std::byte* const* const page = run.pages + t / kPageTokens;
    const bool last = t + kPageTokens >= run.num_tokens;
    const size_t num_tokens = std::min(kPageTokens, run.num_tokens - t);
    const std::byte* const next = last ? page[0] : page[1];
    if constexpr (!IsQuantized(kFormat)) {
      ScorePage<kFormat, kQueries>(q, page[0], next, num_tokens, run.head_dim, scores + t);
    } else {
      float bias[kQueries];
      ScaleQueries<kFormat, kQueries>(q, page[0], run.head_dim, scaled, bias);
      ScorePage<kFormat, kQueries>(scaled, page[0], next, num_tokens, run.head_dim, scores + t);
      for (size_t g = 0; g < kQueries; ++g) {
        for (size_t i = 0; i < num_tokens; ++i) scores[g * kRunTokens + t + i] += bias[g];
      }
    }
  }
}

template <PageFormat kFormat, size_t kQueries>
void AddRun(const TokenRun& run, const float* scores, float* out) {
  const size_t offset = PageValuesOffset(kFormat, run.head_dim);
  const size_t out_stride = PartialFloats(run.head_dim);
  for (size_t t = 0; t < run.num_tokens; t += kPageTokens) {
    const std::byte* const* const page = run.pages + t / kPageTokens;
    const bool last = t + kPageTokens >= run.num_tokens;
    const std::byte* const values = page[0] + offset;
    const std::byte* const next_values = (last ? page[0] : page[1]) + offset;
    const size_t num_tokens = std::min(kPageTokens, run.num_tokens - t);
    for (size_t byte = 0; byte < num_tokens * run.head_dim * PageElementBits(kFormat) / 8;
         byte += 64) {
      __builtin_prefetch(next_values + byte);
    }
    if constexpr (!IsQuantized(kFormat)) {
      AddChannels<kFormat, kQueries>({scores + t, kRunTokens, nullptr}, values, num_tokens, 0,
                                     run.head_dim, run.head_dim, out_stride, out);
    } else {
      float weights[kQueries * kPageTokens];
      float bias[kQueries];
      const size_t width = kFormat == PageFormat::kFp8 ? run.head_dim : kValueGroup;
      for (size_t first = 0; first < run.head_dim; first += width) {
        ScaleWeights<kFormat, kQueries>(scores + t, page[0], num_tokens, first / width,
                                        run.head_dim, weights, bias);
        AddChannels<kFormat, kQueries>({weights, kPageTokens, bias}, values, num_tokens, first,
                                       first + width, run.head_dim, out_stride, out);
      }
    }
  }
}

template <PageFormat kFormat, size_t kQueries>
void AttendQueries(const TokenRun& run, size_t first_query, const float* q, float* scaled,
                   float* scores) {
  const size_t stride = PartialFloats(run.head_dim);
  float* const partial = run.partial + first_query * stride;
  ScoreRun<kFormat, kQueries>(run, q + first_query * run.head_dim, scaled, scores);
  for (size_t g = 0; g < kQueries; ++g) {
    SoftmaxRun(run.num_tokens, scores + g * kRunTokens, partial + g * stride);
    std::fill_n(partial + g * stride + 2, run.head_dim, 0.0f);
  }
  AddRun<kFormat, kQueries>(run, scores, partial + 2);
}

template <PageFormat kFormat>
void AttendFormat(const TokenRun& run, const float* q, float* scaled, float* scores) {
  size_t g = 0;
  while (g < run.num_queries) {
    const size_t left = run.num_queries - g;
    if (kMaxTogether >= 4 && left >= 4) {
      AttendQueries<kFormat, 4>(run, g, q, scaled, scores);
      g += 4;
    } else if (left >= 3) {
      AttendQueries<kFormat, 3>(run, g, q, scaled, scores);
      g += 3;
    } else if (left == 2) {
      AttendQueries<kFormat, 2>(run, g, q, scaled, scores);
      g += 2;
    } else {
      AttendQueries<kFormat, 1>(run, g, q, scaled, scores);
      g += 1;
    }
  }
}

void AttendRun(const TokenRun& run, float* memory) {
  const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(run.head_dim)));
  float* const q = memory;
  float* const scaled = memory + run.num_queries * run.head_dim;
  float* const scores = memory + 2 * run.num_queries * run.head_dim;
  for (size_t i = 0; i < run.num_queries * run.head_dim; ++i) q[i] = run.q[i] * scale;
  switch (run.format) {
    case PageFormat::kF32: AttendFormat<PageFormat::kF32>(run, q, scaled, scores); break;
    case PageFormat::kF16: AttendFormat<PageFormat::kF16>(run, q, scaled, scores); break;
    case PageFormat::kBf16: AttendFormat<PageFormat::kBf16>(run, q, scaled, scores); break;
    case PageFormat::kFp8: AttendFormat<PageFormat::kFp8>(run, q, scaled, scores); break;
    case PageFormat::kInt8: AttendFormat<PageFormat::kInt8>(run, q, scaled, scores); break;
    case PageFormat::kInt4: AttendFormat<PageFormat::kInt4>(run, q, scaled, scores); break;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_TOKEN_RUN_INL_H_
