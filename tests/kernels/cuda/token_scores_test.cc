#include "kernels/cuda/token_scores.h"

#include <cmath>

#include "base/random.h"
#include "kernels/scores.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using TokenScoresTest = DeviceTest;

constexpr size_t kHeads = 3, kTokens = 77, kRows = 80, kStride = 90;

std::vector<float> ScoresOf(ScoreTokensArgs args) {
  const DeviceArray<float> scores(kHeads * kStride);
  args.scores = scores.data();
  args.num_kv_heads = kHeads;
  args.num_tokens = kTokens;
  args.scores_row_stride = kStride;
  const absl::Status status = ScoreTokens(nullptr, args);
  EXPECT_TRUE(status.ok()) << status;
  return scores.ToHost();
}

TEST_F(TokenScoresTest, SmallNormsComeFirstAsOnTheCpu) {
  for (DType dtype : {DType::kF16, DType::kBf16}) {
    for (size_t head_dim : {64, 128}) {
      Tensor16 keys = RandomTensor(dtype, kHeads * kRows * head_dim, 1);
      const DeviceArray<uint16_t> device_keys(keys.bits);
      const std::vector<float> got = ScoresOf({.keys = device_keys.data(),
                                               .score = TokenScore::kSmallNorm,
                                               .dtype = dtype,
                                               .head_dim = head_dim,
                                               .key_head_stride = kRows * head_dim});
      Backend backend(1);
      std::vector<float> norms(kHeads * kRows);
      ASSERT_TRUE(RowNorms(backend, TensorView(keys.values.data(), {kHeads, kRows, head_dim}),
                           TensorView(norms.data(), {kHeads, kRows}))
                      .ok());
      for (size_t h = 0; h < kHeads; ++h) {
        for (size_t i = 0; i < kTokens; ++i) {
          ASSERT_NEAR(got[h * kStride + i], -norms[h * kRows + i], 1e-6 * norms[h * kRows + i]);
        }
        EXPECT_TRUE(std::isnan(got[h * kStride + kTokens])) << "written past the last token";
      }
    }
  }
}

TEST_F(TokenScoresTest, RandomAndLateOnesAreFunctionsOfTheIndex) {
  const std::vector<float> random = ScoresOf({.score = TokenScore::kRandom, .seed = 5});
  const std::vector<float> late = ScoresOf({.score = TokenScore::kLate});
  for (size_t h = 0; h < kHeads; ++h) {
    for (size_t i = 0; i < kTokens; ++i) {
      const uint64_t bits = RandomBits(RandomBits(5, h), i) >> 40;
      ASSERT_EQ(random[h * kStride + i], static_cast<float>(bits) * 0x1p-24f);
      ASSERT_EQ(late[h * kStride + i], static_cast<float>(i));
    }
  }
}

TEST_F(TokenScoresTest, SomeTokensOfEveryHeadGetOneScore) {
  const DeviceArray<float> scores(std::vector<float>(kHeads * kStride, 7.0f));
  FillScoresArgs args = {.scores = scores.data(),
                         .num_heads = kHeads,
                         .begin = 30,
                         .end = 33,
                         .scores_row_stride = kStride,
                         .score = -INFINITY};
  ASSERT_EQ(FillScores(nullptr, args), absl::OkStatus());
  const std::vector<float> got = scores.ToHost();
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t token = i % kStride;
    EXPECT_EQ(got[i], token >= 30 && token < 33 ? -INFINITY : 7.0f) << i;
  }
  args.end = kStride + 1;
  EXPECT_EQ(FillScores(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TokenScoresTest, SumsOverQueriesBecomeMeansOverThoseThatSeeTheKey) {
  const DeviceArray<float> scores(std::vector<float>(kHeads * kStride, 7.0f));
  ASSERT_TRUE(MeanOverQueries(nullptr, {.scores = scores.data(),
                                        .num_kv_heads = kHeads,
                                        .num_tokens = kTokens,
                                        .scores_row_stride = kStride})
                  .ok());
  const std::vector<float> got = scores.ToHost();
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t token = i % kStride;
    EXPECT_EQ(got[i], token < kTokens ? 7.0f / static_cast<float>(kTokens - token) : 7.0f) << i;
  }
}

}  // namespace
}  // namespace kvship::cuda
