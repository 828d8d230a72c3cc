#include "kernels/cuda/key_directions.h"

#include <cmath>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using KeyDirectionsTest = DeviceTest;

constexpr size_t kHeads = 2, kStride = 1200;

// By the formula, in double; a key of zeros has no direction.
std::vector<double> Expected(const Tensor16& keys, size_t num_tokens, size_t rows, size_t d) {
  std::vector<double> scores(kHeads * num_tokens);
  for (size_t h = 0; h < kHeads; ++h) {
    const auto element = [&](size_t i, size_t e) { return keys.values[(h * rows + i) * d + e]; };
    const auto norm = [&](size_t i) {
      double squares = 0;
      for (size_t e = 0; e < d; ++e) squares += double{element(i, e)} * element(i, e);
      return std::max(std::sqrt(squares), 1e-12);
    };
    std::vector<double> mean(d);
    for (size_t i = 0; i < num_tokens; ++i) {
      for (size_t e = 0; e < d; ++e) mean[e] += element(i, e) / norm(i);
    }
    double squares = 0;
    for (double x : mean) squares += x * x;
    for (size_t i = 0; i < num_tokens; ++i) {
      double product = 0;
      for (size_t e = 0; e < d; ++e) product += element(i, e) * mean[e];
      scores[h * num_tokens + i] = -product / norm(i) / std::sqrt(squares);
    }
  }
  return scores;
}

std::vector<float> ScoresOf(const Tensor16& keys, size_t num_tokens, size_t rows, size_t d) {
  const DeviceArray<uint16_t> device_keys(keys.bits);
  const DeviceArray<float> scores(kHeads * kStride);
  const DeviceArray<std::byte> workspace(KeyDirectionsWorkspaceBytes(kHeads, num_tokens, d));
  EXPECT_EQ(ScoreKeyDirections(nullptr, {.keys = device_keys.data(),
                                         .scores = scores.data(),
                                         .workspace = workspace.data(),
                                         .dtype = keys.dtype,
                                         .num_kv_heads = kHeads,
                                         .num_tokens = num_tokens,
                                         .head_dim = d,
                                         .key_head_stride = rows * d,
                                         .scores_row_stride = kStride}),
            absl::OkStatus());
  return scores.ToHost();
}

TEST_F(KeyDirectionsTest, AreCosinesToTheMeanDirection) {
  for (DType dtype : {DType::kF16, DType::kBf16}) {
    for (size_t d : {64, 128}) {
      for (size_t num_tokens : {1, 77, 1100}) {  // 1100: three parts
        SCOPED_TRACE(testing::Message() << "D " << d << " T " << num_tokens);
        const size_t rows = num_tokens + 3;
        Tensor16 keys = RandomTensor(dtype, kHeads * rows * d, 1);
        for (size_t e = 0; e < d; ++e) {  // a key that is ten times as long, and one of zeros
          if (num_tokens < 2) break;
          keys.bits[d + e] = BitsOf(dtype, keys.values[d + e] * 10);
          keys.values[d + e] = ValueOf(dtype, keys.bits[d + e]);
          keys.bits[e] = 0;
          keys.values[e] = 0;
        }
        const std::vector<float> got = ScoresOf(keys, num_tokens, rows, d);
        const std::vector<double> expected = Expected(keys, num_tokens, rows, d);
        for (size_t h = 0; h < kHeads; ++h) {
          for (size_t i = 0; i < num_tokens; ++i) {
            // D products of size 1 / sqrt(D) with D directions, each off by some roundings.
            ASSERT_NEAR(got[h * kStride + i], expected[h * num_tokens + i], d * 0x1p-24) << i;
          }
          EXPECT_TRUE(std::isnan(got[h * kStride + num_tokens])) << "written past the last key";
        }
      }
    }
  }
}

TEST_F(KeyDirectionsTest, RepeatBitForBit) {
  const Tensor16 keys = RandomTensor(DType::kBf16, kHeads * 1100 * 128, 2);
  const std::vector<float> once = ScoresOf(keys, 1100, 1100, 128);
  const std::vector<float> again = ScoresOf(keys, 1100, 1100, 128);
  for (size_t i = 0; i < 1100; ++i) ASSERT_EQ(once[i], again[i]);
}

TEST_F(KeyDirectionsTest, RefuseWhatTheyCannotCompute) {
  const DeviceArray<float> memory(64 * 96);
  const KeyDirectionsArgs fits = {.keys = memory.data(),
                                  .scores = memory.data(),
                                  .workspace = memory.data(),
                                  .num_kv_heads = 1,
                                  .num_tokens = 4,
                                  .head_dim = 64,
                                  .key_head_stride = 256,
                                  .scores_row_stride = 4};
  KeyDirectionsArgs args = fits;
  args.head_dim = 96;
  args.key_head_stride = 4 * 96;
  EXPECT_EQ(ScoreKeyDirections(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  args = fits;
  args.scores_row_stride = 3;
  EXPECT_EQ(ScoreKeyDirections(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
