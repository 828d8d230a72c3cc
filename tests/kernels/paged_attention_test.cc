#include <gtest/gtest.h>

#include <numeric>

#include "base/buffer.h"
#include "kernels/attention.h"
#include "tests/kernels/attention_reference.h"

namespace kvship {
namespace {

// One sequence's cache: per cached head, prefix and tail pages, and the same rows as floats.
struct CachedSequence {
  CachedSequence(size_t num_heads, size_t head_dim, std::vector<size_t> prefix_tokens,
                 size_t tail_tokens, PageFormat format, PageFormat tail_format, uint64_t seed)
      : prefix_format(format) {
    for (size_t h = 0; h < num_heads; ++h) {
      const size_t num_prefix = prefix_tokens[h % prefix_tokens.size()];
      const size_t num_tokens = num_prefix + tail_tokens;
      rows.emplace_back(RandomTensor({num_tokens, head_dim}, seed + 2 * h),
                        RandomTensor({num_tokens, head_dim}, seed + 2 * h + 1));
      heads.push_back({.prefix_pages = Encode(format, h, 0, num_prefix),
                       .num_prefix_tokens = num_prefix,
                       .tail_pages = Encode(tail_format, h, num_prefix, tail_tokens),
                       .num_tail_tokens = tail_tokens});
    }
  }

  // Pages of the tokens [begin, begin + count) of head h; `rows` are left as the pages have them.
  std::span<const std::byte* const> Encode(PageFormat format, size_t h, size_t begin,
                                           size_t count) {
    auto& [keys, values] = rows[h];
    const size_t head_dim = keys.view.dims[1];
    std::vector<int32_t> positions(count);
    std::iota(positions.begin(), positions.end(), begin);
    memory.emplace_back(PagesFor(count) * PageBytes(format, head_dim));
    GatherPages(format, keys.view, values.view, positions, memory.back().data());
    auto& list = pages.emplace_back(std::make_unique<std::vector<const std::byte*>>());
    for (size_t t = 0; t < count; t += kPageTokens) {
      list->push_back(memory.back().data() + t / kPageTokens * PageBytes(format, head_dim));
      const size_t on_page = std::min(kPageTokens, count - t);
      ReadPage(format, list->back(), keys.view.Slice(0, begin + t, on_page),
               values.view.Slice(0, begin + t, on_page));
    }
    return *list;
  }

  PageFormat prefix_format;
  std::vector<std::pair<RandomTensor, RandomTensor>> rows;
  std::vector<Buffer> memory;
  std::vector<std::unique_ptr<std::vector<const std::byte*>>> pages;
  std::vector<PagedHead> heads;
};

std::vector<float> Attend(Backend& backend, std::span<const CachedSequence* const> batch,
                          const TensorView& q, PageFormat tail_format) {
  std::vector<PagedHead> heads;
  std::vector<size_t> num_heads;
  std::vector<PageFormat> formats;
  const std::vector<PageFormat> tail_formats(batch.size(), tail_format);
  for (const CachedSequence* sequence : batch) {
    heads.insert(heads.end(), sequence->heads.begin(), sequence->heads.end());
    num_heads.push_back(sequence->heads.size());
    formats.push_back(sequence->prefix_format);
  }
  std::vector<float> out(q.num_elements());
  const absl::Status status =
      PagedAttention(backend, {.q = q,
                               .heads = heads,
                               .num_heads = num_heads,
                               .prefix_formats = formats,
                               .tail_formats = tail_formats,
                               .out = {out.data(), {q.dims[0], q.dims[1] * q.dims[2]}}});
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

struct Case {
  size_t query_heads;
  size_t cached_heads;
  size_t head_dim;
  std::vector<size_t> prefix_tokens;
  size_t tail_tokens;
  PageFormat prefix_format;
  PageFormat tail_format;
};

class PagedAttentionOf : public testing::TestWithParam<Case> {};

TEST_P(PagedAttentionOf, EqualsTheFormula) {
  const Case& c = GetParam();
  Backend backend(2);
  const CachedSequence sequence(c.cached_heads, c.head_dim, c.prefix_tokens, c.tail_tokens,
                                c.prefix_format, c.tail_format, 10);
  RandomTensor q({1, c.query_heads, c.head_dim}, 3);
  const CachedSequence* const batch[] = {&sequence};
  const std::vector<float> out = Attend(backend, batch, q.view, c.tail_format);
  const size_t group = c.query_heads / c.cached_heads;
  for (size_t head = 0; head < c.query_heads; ++head) {
    const auto& [keys, values] = sequence.rows[head / group];
    const ReferenceRow row =
        AttendByFormula(q.view.f32(0, head), keys.view, values.view, keys.view.dims[0]);
    for (size_t i = 0; i < c.head_dim; ++i) {
      // Scores of order 5 are off by some D * 2^-24 * 5; values are of order 1.
      ASSERT_NEAR(out[head * c.head_dim + i], row.out[i], 1e-5) << head << ", " << i;
    }
  }
}

constexpr PageFormat kF32 = PageFormat::kF32;
constexpr PageFormat kF16 = PageFormat::kF16;
constexpr PageFormat kBf16 = PageFormat::kBf16;
constexpr PageFormat kFp8 = PageFormat::kFp8;
constexpr PageFormat kInt8 = PageFormat::kInt8;
constexpr PageFormat kInt4 = PageFormat::kInt4;

INSTANTIATE_TEST_SUITE_P(
    Cases, PagedAttentionOf,
    testing::Values(Case{9, 3, 64, {1200}, 5, kF16, kF16}, Case{9, 3, 64, {700}, 33, kBf16, kF16},
                    Case{9, 3, 64, {64}, 40, kF32, kF32}, Case{8, 2, 128, {513}, 1, kF16, kBf16},
                    Case{4, 2, 16, {40, 3}, 2, kF16, kF16},  // ragged prefixes
                    Case{4, 4, 16, {31}, 1, kF32, kF16},     // a prefix per query head
                    Case{7, 1, 80, {90}, 7, kF16, kF16},     // 7 query heads on one
                    Case{2, 1, 64, {0}, 3, kF16, kF16},      // no prefix yet
                    Case{2, 1, 64, {1}, 0, kF16, kF16}, Case{9, 3, 64, {1200}, 5, kInt4, kF16},
                    Case{9, 3, 64, {700, 33, 1}, 33, kInt8, kF16},
                    Case{9, 3, 64, {530, 31}, 2, kFp8, kBf16},
                    Case{8, 2, 128, {75}, 1, kInt4, kF32}, Case{2, 1, 256, {40}, 1, kInt8, kF16},
                    Case{5, 1, 32, {97}, 1, kInt4, kF16}, Case{7, 1, 80, {90}, 7, kFp8, kF16}));

TEST(PagedAttention, DoesNotDependOnTheBatchesCompany) {
  Backend backend(2);
  const CachedSequence a(3, 64, {1500}, 9, kF16, kF16, 100);
  const CachedSequence b(3, 64, {10, 600}, 40, kF16, kF16, 200);
  const CachedSequence c(9, 64, {77}, 1, kBf16, kF16, 300);  // a prefix per query head
  const CachedSequence d(3, 64, {600, 5}, 3, kInt4, kF16, 400);
  const CachedSequence* const batch[] = {&a, &b, &c, &d};
  RandomTensor q({4, 9, 64}, 4);
  const std::vector<float> together = Attend(backend, batch, q.view, kF16);
  for (size_t i = 0; i < 4; ++i) {
    const std::vector<float> alone =
        Attend(backend, std::span(batch).subspan(i, 1), q.view.Slice(0, i, 1), kF16);
    const auto first = together.begin() + static_cast<ptrdiff_t>(i * alone.size());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), first)) << i;
  }
}

TEST(PagedAttention, DoesNotDependOnTheNumberOfThreads) {
  const CachedSequence sequence(3, 64, {2100}, 17, kF16, kF16, 100);
  const CachedSequence* const batch[] = {&sequence};
  RandomTensor q({1, 9, 64}, 4);
  Backend one(1);
  const std::vector<float> expected = Attend(one, batch, q.view, kF16);
  for (const size_t num_threads : {2, 5}) {
    Backend many(num_threads);
    EXPECT_EQ(Attend(many, batch, q.view, kF16), expected) << num_threads;
  }
}

TEST(PagedAttention, RefusesWhatDoesNotFit) {
  Backend backend(1);
  CachedSequence sequence(2, 16, {5}, 1, kF16, kF16, 1);
  RandomTensor q({1, 4, 16}, 2);
  RandomTensor out({1, 64}, 3);
  const size_t num_heads[] = {2};
  const PageFormat formats[] = {kF16};
  PagedAttentionArgs args{.q = q.view,
                          .heads = sequence.heads,
                          .num_heads = num_heads,
                          .prefix_formats = formats,
                          .tail_formats = formats,
                          .out = out.view};
  EXPECT_TRUE(PagedAttention(backend, args).ok());
  sequence.heads[1].num_prefix_tokens = 33;
  EXPECT_EQ(PagedAttention(backend, args).code(), absl::StatusCode::kInvalidArgument)
      << "33 tokens on one page";
  sequence.heads[1].num_prefix_tokens = 0;
  sequence.heads[1].num_tail_tokens = 0;
  EXPECT_EQ(PagedAttention(backend, args).code(), absl::StatusCode::kInvalidArgument)
      << "nothing to attend to";
  sequence.heads[1].num_tail_tokens = 1;
  ASSERT_TRUE(PagedAttention(backend, args).ok());
  const PageFormat int4[] = {kInt4};
  args.prefix_formats = int4;
  EXPECT_EQ(PagedAttention(backend, args).code(), absl::StatusCode::kInvalidArgument)
      << "16 channels share no scale";
  args.prefix_formats = formats;
  args.tail_formats = int4;
  EXPECT_EQ(PagedAttention(backend, args).code(), absl::StatusCode::kInvalidArgument)
      << "a tail that takes no tokens";
}

}  // namespace
}  // namespace kvship
