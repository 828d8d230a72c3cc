// Attention and votes on every SIMD target that the processor has, not only on the best.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "base/buffer.h"
#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/scores.h"
#include "tests/kernels/attention_reference.h"

namespace kvship {
namespace {

class EachTarget : public testing::Test {
 protected:
  ~EachTarget() override { Choose(0); }

  // 0 is what the processor has.
  static void Choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().DeInit();
  }

  template <class Body>
  static void ForEach(const Body& body) {
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      SCOPED_TRACE(hwy::TargetName(target));
      Choose(target);
      body(target);
    }
  }
};

constexpr size_t kTokens = 200, kQueryHeads = 6, kKvHeads = 2, kHeadDim = 96;

TEST_F(EachTarget, PromptAttentionEqualsTheFormula) {
  Backend backend(2);
  const RandomTensor q({kTokens, kQueryHeads, kHeadDim}, 1);
  const RandomTensor keys({kKvHeads, kTokens, kHeadDim}, 2);
  const RandomTensor values({kKvHeads, kTokens, kHeadDim}, 3);
  // `rounding`: of a probability times a value, relative to it.
  const auto expect = [&](Arithmetic arithmetic, double tolerance, double rounding) {
    RandomTensor out({kTokens, kQueryHeads * kHeadDim}, 4), lse({kQueryHeads, kTokens}, 5);
    ASSERT_TRUE(PromptAttention(backend, {.q = q.view,
                                          .keys = keys.view,
                                          .values = values.view,
                                          .first_position = 0,
                                          .arithmetic = arithmetic,
                                          .out = out.view,
                                          .lse = lse.view})
                    .ok());
    for (const size_t token : {0, 1, 127, 128, 199}) {
      for (size_t head = 0; head < kQueryHeads; ++head) {
        const ReferenceRow row = AttendByFormula(q.view.f32(token, head), Head(keys.view, head / 3),
                                                 Head(values.view, head / 3), token + 1);
        EXPECT_NEAR(lse.view.f32(head)[token], row.lse, tolerance);
        for (size_t i = 0; i < kHeadDim; ++i) {
          double magnitude = 0.0;
          for (size_t j = 0; j <= token; ++j) {
            magnitude += row.probabilities[j] * std::abs(values.view.f32(head / 3, j)[i]);
          }
          ASSERT_NEAR(out.view.f32(token)[head * kHeadDim + i], row.out[i],
                      tolerance + rounding * magnitude);
        }
      }
    }
  };
  // Only AVX-512 rounds probabilities and values to bfloat16, each by at most 2^-8 of itself.
  ForEach([&](int64_t target) {
    expect(Arithmetic::kFloat32, 1e-5, 0.0);
    expect(Arithmetic::kFast, 1e-3, target == HWY_AVX3 ? std::ldexp(1.0, -7) : 0.0);
  });
}

TEST_F(EachTarget, PagedAttentionEqualsTheFormula) {
  Backend backend(2);
  const RandomTensor q({1, kQueryHeads, kHeadDim}, 1);
  ForEach([&](int64_t) {
    for (const PageFormat format : {PageFormat::kF32, PageFormat::kF16, PageFormat::kBf16,
                                    PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4}) {
      const size_t page_bytes = PageBytes(format, kHeadDim), num_pages = PagesFor(kTokens);
      RandomTensor keys({kTokens, kHeadDim}, 2), values({kTokens, kHeadDim}, 3);
      std::vector<int32_t> positions(kTokens);
      std::iota(positions.begin(), positions.end(), 0);
      Buffer memory(num_pages * page_bytes);
      GatherPages(format, keys.view, values.view, positions, memory.data());
      std::vector<const std::byte*> pages;
      for (size_t i = 0; i < num_pages; ++i) {
        pages.push_back(memory.data() + i * page_bytes);
        const size_t count = std::min(kPageTokens, kTokens - i * kPageTokens);
        ReadPage(format, pages.back(), keys.view.Slice(0, i * kPageTokens, count),
                 values.view.Slice(0, i * kPageTokens, count));
      }
      const PagedHead heads[] = {{pages, kTokens, {}, 0}};
      const size_t num_heads = 1;
      const PageFormat tail_format = PageFormat::kF16;
      RandomTensor out({1, kQueryHeads * kHeadDim}, 4);
      ASSERT_TRUE(PagedAttention(backend, {.q = q.view,
                                           .heads = heads,
                                           .num_heads = {&num_heads, 1},
                                           .prefix_formats = {&format, 1},
                                           .tail_formats = {&tail_format, 1},
                                           .out = out.view})
                      .ok());
      for (size_t head = 0; head < kQueryHeads; ++head) {
        const ReferenceRow row =
            AttendByFormula(q.view.f32(0, head), keys.view, values.view, kTokens);
        for (size_t i = 0; i < kHeadDim; ++i) {
          ASSERT_NEAR(out.data[head * kHeadDim + i], row.out[i], 1e-5) << PageFormatName(format);
        }
      }
    }
  });
}

// A choice must not depend on the machine it was made on, as far as FMA reaches.
TEST_F(EachTarget, VotesAreBitIdenticalOnTargetsWithFma) {
  Backend backend(2);
  const RandomTensor q({kQueryHeads, 16, kHeadDim}, 1), keys({kKvHeads, kTokens, kHeadDim}, 2);
  const RandomTensor lse({kQueryHeads, 16}, 3);
  std::map<int64_t, std::vector<float>> votes;
  ForEach([&](int64_t target) {
    RandomTensor out({kQueryHeads, kTokens}, 4);
    ASSERT_TRUE(WindowVotes(backend, {.q = q.view,
                                      .keys = keys.view,
                                      .lse = lse.view,
                                      .first_position = kTokens - 16,
                                      .votes = out.view})
                    .ok());
    votes[target] = out.data;
  });
  const std::vector<float>& best = votes.begin()->second;
  for (const auto& [target, other] : votes) {
    if (target == HWY_AVX2 || target == HWY_AVX3) {
      EXPECT_EQ(other, best) << hwy::TargetName(target);
    }
    for (size_t i = 0; i < best.size(); ++i) ASSERT_NEAR(other[i], best[i], 2e-5 * best[i]);
  }
}

}  // namespace
}  // namespace kvship
