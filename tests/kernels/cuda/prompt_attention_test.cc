#include "kernels/cuda/prompt_attention.h"

#include <cmath>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct Case {
  DType dtype;
  size_t query_heads, kv_heads, tokens, head_dim;
};

// A whole prompt's queries, keys and values, on the host and on the device.
struct Prompt {
  explicit Prompt(const Case& c)
      : shape(c),
        q(RandomTensor(c.dtype, c.tokens * c.query_heads * c.head_dim, 1)),
        keys(RandomTensor(c.dtype, c.kv_heads * c.tokens * c.head_dim, 2)),
        values(RandomTensor(c.dtype, c.kv_heads * c.tokens * c.head_dim, 3)),
        device_q(q.bits),
        device_keys(keys.bits),
        device_values(values.bits) {}

  PromptAttentionArgs Args(size_t first, size_t count, uint16_t* out, float* lse) const {
    const size_t row = shape.query_heads * shape.head_dim;
    return {.q = device_q.data() + first * row,
            .keys = device_keys.data(),
            .values = device_values.data(),
            .out = out,
            .lse = lse,
            .dtype = shape.dtype,
            .num_queries = count,
            .num_query_heads = shape.query_heads,
            .num_kv_heads = shape.kv_heads,
            .head_dim = shape.head_dim,
            .head_stride = shape.tokens * shape.head_dim,
            .q_row_stride = row,
            .lse_row_stride = lse == nullptr ? 0 : count,
            .first_position = first};
  }

  Case shape;
  Tensor16 q, keys, values;
  DeviceArray<uint16_t> device_q, device_keys, device_values;
};

// One row by the definition, in double precision.
struct Row {
  Row(const Prompt& p, size_t head, size_t token)
      : out(p.shape.head_dim), weighed(p.shape.head_dim) {
    const Case& c = p.shape;
    const float* q = &p.q.values[(token * c.query_heads + head) * c.head_dim];
    const size_t base = head / (c.query_heads / c.kv_heads) * c.tokens * c.head_dim;
    std::vector<double> weights(token + 1);
    double sum = 0;
    for (size_t i = 0; i <= token; ++i) {
      double dot = 0;
      for (size_t d = 0; d < c.head_dim; ++d)
        dot += double{q[d]} * p.keys.values[base + i * c.head_dim + d];
      sum += weights[i] = std::exp(dot / std::sqrt(static_cast<double>(c.head_dim)));
    }
    for (size_t i = 0; i <= token; ++i) {
      for (size_t d = 0; d < c.head_dim; ++d) {
        const double share = weights[i] / sum * p.values.values[base + i * c.head_dim + d];
        out[d] += share;
        weighed[d] += std::abs(share);
      }
    }
    lse = std::log(sum);
  }
  std::vector<double> out, weighed;  // weighed: the sum of the magnitudes of what was added
  double lse;
};

using PromptAttentionTest = DeviceTest;

TEST_F(PromptAttentionTest, IsTheDefinitionWithItsLogSumExp) {
  const Case cases[] = {{DType::kBf16, 4, 2, 150, 128},
                        {DType::kF16, 3, 1, 64, 64},
                        {DType::kF16, 2, 2, 65, 128},
                        {DType::kBf16, 1, 1, 1, 64}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << "T " << c.tokens << " D " << c.head_dim);
    const Prompt prompt(c);
    const DeviceArray<uint16_t> out(c.tokens * c.query_heads * c.head_dim);
    const DeviceArray<float> lse(c.query_heads * c.tokens);
    ASSERT_TRUE(PromptAttention(nullptr, prompt.Args(0, c.tokens, out.data(), lse.data())).ok());
    const std::vector<float> got = ValuesOf(c.dtype, out.ToHost()), got_lse = lse.ToHost();
    for (size_t token = 0; token < c.tokens; ++token) {
      for (size_t head = 0; head < c.query_heads; ++head) {
        const Row row(prompt, head, token);
        ASSERT_NEAR(got_lse[head * c.tokens + token], row.lse, 1e-4);
        for (size_t d = 0; d < c.head_dim; ++d) {
          // Weights and the result are each rounded to dtype once; the rest is float32.
          const double roundoff = UnitRoundoff(c.dtype) + 1e-4;
          ASSERT_NEAR(got[(token * c.query_heads + head) * c.head_dim + d], row.out[d],
                      roundoff * (row.weighed[d] + std::abs(row.out[d])) + 1e-6)
              << "token " << token << " head " << head << " element " << d;
        }
      }
    }
  }
}

TEST_F(PromptAttentionTest, OfARowDoesNotDependOnHowThePromptIsCut) {
  const Case c = {DType::kBf16, 2, 1, 200, 64};
  const Prompt prompt(c);
  const size_t row = c.query_heads * c.head_dim, cut = 77;
  const DeviceArray<uint16_t> whole(c.tokens * row), parts(c.tokens * row);
  ASSERT_TRUE(PromptAttention(nullptr, prompt.Args(0, c.tokens, whole.data(), nullptr)).ok());
  ASSERT_TRUE(PromptAttention(nullptr, prompt.Args(0, cut, parts.data(), nullptr)).ok());
  ASSERT_TRUE(
      PromptAttention(nullptr, prompt.Args(cut, c.tokens - cut, parts.data() + cut * row, nullptr))
          .ok());
  EXPECT_EQ(whole.ToHost(), parts.ToHost());
}

}  // namespace
}  // namespace kvship::cuda
