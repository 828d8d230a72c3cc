#include <gtest/gtest.h>

#include <cstring>

#include "kernels/attention.h"
#include "tests/kernels/attention_reference.h"

namespace kvship {
namespace {

struct Shape {
  size_t query_heads;
  size_t kv_heads;
  size_t head_dim;
  size_t num_tokens;
};

struct Prompt {
  explicit Prompt(Shape s, float scale = 1.0f)
      : shape(s),
        q({s.num_tokens, s.query_heads, s.head_dim}, 1, scale),
        keys({s.kv_heads, s.num_tokens, s.head_dim}, 2, scale),
        values({s.kv_heads, s.num_tokens, s.head_dim}, 3),
        out({s.num_tokens, s.query_heads * s.head_dim}, 4),
        lse({s.query_heads, s.num_tokens}, 5) {}

  // Attention of the queries [begin, begin + count), with exactly the keys up to the last of them.
  absl::Status Attend(Backend& backend, size_t begin, size_t count, Arithmetic arithmetic) {
    return PromptAttention(backend, {.q = q.view.Slice(0, begin, count),
                                     .keys = keys.view.Slice(1, 0, begin + count),
                                     .values = values.view.Slice(1, 0, begin + count),
                                     .first_position = begin,
                                     .arithmetic = arithmetic,
                                     .out = out.view.Slice(0, begin, count),
                                     .lse = lse.view.Slice(1, begin, count)});
  }

  ReferenceRow Reference(size_t token, size_t head) const {
    const size_t kv_head = head / (shape.query_heads / shape.kv_heads);
    return AttendByFormula(q.view.f32(token, head), Head(keys.view, kv_head),
                           Head(values.view, kv_head), token + 1);
  }

  Shape shape;
  RandomTensor q, keys, values, out, lse;
};

struct Errors {
  double out = 0.0;
  double lse = 0.0;
};

Errors LargestErrors(const Prompt& prompt) {
  Errors errors;
  const size_t head_dim = prompt.shape.head_dim;
  for (size_t t = 0; t < prompt.shape.num_tokens; ++t) {
    for (size_t head = 0; head < prompt.shape.query_heads; ++head) {
      const ReferenceRow row = prompt.Reference(t, head);
      const float* const out = prompt.out.view.f32(t) + head * head_dim;
      for (size_t i = 0; i < head_dim; ++i) {
        errors.out = std::max(errors.out, std::abs(out[i] - row.out[i]));
      }
      errors.lse = std::max(errors.lse, std::abs(prompt.lse.view.f32(head)[t] - row.lse));
    }
  }
  return errors;
}

class PromptAttentionOfShape : public testing::TestWithParam<Shape> {};

TEST_P(PromptAttentionOfShape, Float32EqualsTheFormula) {
  Backend backend(2);
  Prompt prompt(GetParam());
  ASSERT_TRUE(prompt.Attend(backend, 0, GetParam().num_tokens, Arithmetic::kFloat32).ok());
  const Errors errors = LargestErrors(prompt);
  // Scores of up to some 6 have absolute errors of about D * 2^-24 * 6; values are of order 1.
  EXPECT_LT(errors.out, 1e-5);
  EXPECT_LT(errors.lse, 1e-5);
}

TEST_P(PromptAttentionOfShape, FastIsNearTheFormula) {
  Backend backend(2);
  Prompt prompt(GetParam());
  ASSERT_TRUE(prompt.Attend(backend, 0, GetParam().num_tokens, Arithmetic::kFast).ok());
  const Errors errors = LargestErrors(prompt);
  // Values and probabilities may be rounded to 8 bits: 2^-8 of values that reach 3.5.
  EXPECT_LT(errors.out, 0.014);
  EXPECT_LT(errors.lse, 2e-4);
}

INSTANTIATE_TEST_SUITE_P(Shapes, PromptAttentionOfShape,
                         testing::Values(Shape{9, 3, 64, 300}, Shape{8, 2, 128, 150},
                                         Shape{4, 4, 16, 131}, Shape{4, 1, 16, 70},
                                         Shape{2, 1, 20, 40}, Shape{3, 3, 80, 1}),
                         [](const auto& info) {
                           const Shape& s = info.param;
                           return std::to_string(s.query_heads) + "over" +
                                  std::to_string(s.kv_heads) + "heads_of" +
                                  std::to_string(s.head_dim) + "_tokens" +
                                  std::to_string(s.num_tokens);
                         });

class PromptAttentionIn : public testing::TestWithParam<Arithmetic> {};

TEST_P(PromptAttentionIn, DoesNotDependOnHowThePromptIsCut) {
  Backend backend(2);
  constexpr size_t kTokens = 413;
  Prompt whole({6, 2, 32, kTokens});
  ASSERT_TRUE(whole.Attend(backend, 0, kTokens, GetParam()).ok());
  for (const size_t block : {1, 7, 100, 128, 256}) {
    Prompt cut({6, 2, 32, kTokens});
    for (size_t begin = 0; begin < kTokens; begin += block) {
      ASSERT_TRUE(cut.Attend(backend, begin, std::min(block, kTokens - begin), GetParam()).ok());
    }
    EXPECT_EQ(cut.out.data, whole.out.data) << "blocks of " << block;
    EXPECT_EQ(cut.lse.data, whole.lse.data) << "blocks of " << block;
  }
}

TEST_P(PromptAttentionIn, DoesNotDependOnTheNumberOfThreads) {
  Backend one(1);
  Prompt expected({6, 2, 64, 200});
  ASSERT_TRUE(expected.Attend(one, 0, 200, GetParam()).ok());
  for (const size_t num_threads : {2, 5}) {
    Backend many(num_threads);
    Prompt prompt({6, 2, 64, 200});
    ASSERT_TRUE(prompt.Attend(many, 0, 200, GetParam()).ok());
    EXPECT_EQ(prompt.out.data, expected.out.data) << num_threads;
    EXPECT_EQ(prompt.lse.data, expected.lse.data) << num_threads;
  }
}

// Scores from about -500 to 500: their exponentials leave the range of floats on both sides.
TEST_P(PromptAttentionIn, SurvivesScoresFarFromZero) {
  Backend backend(2);
  Prompt prompt({3, 1, 64, 300}, /*scale=*/11.0f);
  ASSERT_TRUE(prompt.Attend(backend, 0, 300, GetParam()).ok());
  const Errors errors = LargestErrors(prompt);
  // |q| |k| / 8 is about 970, and a row of 16-bit integers of norm 46000 makes a standard error of
  // 0.29 * sqrt(2) / 46000 of it, 0.009; five of those. Where one score leads by little, it shifts
  // probability between values that differ by up to 7.
  EXPECT_LT(errors.lse, 0.045);
  EXPECT_LT(errors.out, 0.1);
}

// K and V in memory as a fused projection leaves them, [T, (H + H) D], and no lse asked for.
TEST_P(PromptAttentionIn, ReadsStridedRows) {
  Backend backend(2);
  constexpr size_t kTokens = 150;
  Prompt dense({4, 2, 32, kTokens});
  ASSERT_TRUE(dense.Attend(backend, 0, kTokens, GetParam()).ok());
  RandomTensor fused({kTokens, (4 + 2 + 2) * 32}, 6);
  for (size_t t = 0; t < kTokens; ++t) {
    std::memcpy(fused.view.f32(t), dense.q.view.f32(t), 4 * 32 * sizeof(float));
    for (size_t h = 0; h < 2; ++h) {
      std::memcpy(fused.view.f32(t) + (4 + h) * 32, dense.keys.view.f32(h, t), 32 * sizeof(float));
      std::memcpy(fused.view.f32(t) + (6 + h) * 32, dense.values.view.f32(h, t),
                  32 * sizeof(float));
    }
  }
  const auto heads_first = [&](size_t first, size_t count) {
    TensorView view = fused.view.Slice(1, first * 32, count * 32).SplitLast(count);
    std::swap(view.dims[0], view.dims[1]);
    std::swap(view.strides[0], view.strides[1]);
    return view;
  };
  RandomTensor out({kTokens, 4 * 32}, 7);
  ASSERT_TRUE(PromptAttention(backend, {.q = fused.view.Slice(1, 0, 4 * 32).SplitLast(4),
                                        .keys = heads_first(4, 2),
                                        .values = heads_first(6, 2),
                                        .first_position = 0,
                                        .arithmetic = GetParam(),
                                        .out = out.view,
                                        .lse = {}})
                  .ok());
  EXPECT_EQ(out.data, dense.out.data);
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, PromptAttentionIn,
                         testing::Values(Arithmetic::kFloat32, Arithmetic::kFast),
                         [](const auto& info) {
                           return info.param == Arithmetic::kFast ? "Fast" : "Float32";
                         });

TEST(PromptAttention, RefusesShapesThatDoNotFit) {
  Backend backend(1);
  Prompt prompt({4, 2, 16, 10});
  PromptAttentionArgs args{.q = prompt.q.view,
                           .keys = prompt.keys.view,
                           .values = prompt.values.view,
                           .first_position = 1,
                           .arithmetic = Arithmetic::kFloat32,
                           .out = prompt.out.view,
                           .lse = {}};
  EXPECT_EQ(PromptAttention(backend, args).code(), absl::StatusCode::kInvalidArgument)
      << "keys end before the last query";
  args.first_position = 0;
  args.q = prompt.q.view.Slice(1, 0, 3);
  EXPECT_EQ(PromptAttention(backend, args).code(), absl::StatusCode::kInvalidArgument)
      << "3 query heads on 2 KV heads";
}

}  // namespace
}  // namespace kvship
