#include "kernels/cuda/top_positions.h"

#include <cmath>
#include <span>

#include "kernels/scores.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

std::vector<int32_t> Expected(const float* scores, size_t n, size_t k) {
  return kvship::TopPositions(std::span(scores, n), k);
}

void ExpectExact(const std::vector<float>& scores, size_t rows, size_t n, size_t k,
                 size_t appended = 0) {
  SCOPED_TRACE(testing::Message() << rows << " rows of " << n << ", k " << k);
  const DeviceArray<float> device_scores(scores);
  const size_t stride = k + appended;
  std::vector<int32_t> offsets(rows + 1);
  for (size_t r = 0; r <= rows; ++r) offsets[r] = static_cast<int32_t>(r * stride);
  const DeviceArray<int32_t> device_offsets(offsets);
  const DeviceArray<int32_t> positions(rows * stride + 1);  // one more, which stays unwritten
  const DeviceArray<std::byte> workspace(
      std::vector<std::byte>(TopPositionsWorkspaceBytes(rows, n)));
  const TopPositionsArgs args = {.scores = device_scores.data(),
                                 .offsets = device_offsets.data(),
                                 .positions = positions.data(),
                                 .workspace = workspace.data(),
                                 .num_rows = rows,
                                 .num_scores = n,
                                 .scores_row_stride = n,
                                 .num_appended = appended};
  ASSERT_TRUE(TopPositions(nullptr, args).ok());
  const std::vector<int32_t> got = positions.ToHost();
  ASSERT_TRUE(TopPositions(nullptr, args).ok());
  ASSERT_EQ(positions.ToHost(), got) << "the second call in the same workspace";
  for (size_t r = 0; r < rows; ++r) {
    std::vector<int32_t> expected = Expected(&scores[r * n], n, k);
    for (size_t i = 0; i < appended; ++i) expected.push_back(static_cast<int32_t>(n + i));
    ASSERT_EQ(std::vector<int32_t>(&got[r * stride], &got[r * stride] + stride), expected);
  }
  ASSERT_EQ(got.back(), -1) << "written past the last row";
}

std::vector<float> RandomScores(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> scores(size);
  for (float& x : scores) x = std::exp(4 * normal(random) - 12);
  return scores;
}

using TopPositionsTest = DeviceTest;

TEST_F(TopPositionsTest, AreTheLargestScoresAscending) {
  ExpectExact(RandomScores(2 * 50000, 1), 2, 50000, 1000);  // several blocks per row
  ExpectExact(RandomScores(2 * 32769, 1), 2, 32769, 32769);
  ExpectExact(RandomScores(2 * 32768, 1), 2, 32768, 9000);  // one, of each size
  ExpectExact(RandomScores(2 * 16000, 1), 2, 16000, 1000);
  ExpectExact(RandomScores(3 * 8193, 2), 3, 8193, 1);
  ExpectExact(RandomScores(5, 3), 1, 5, 3);
  ExpectExact(RandomScores(3 * 101, 4), 3, 101, 100);
}

TEST_F(TopPositionsTest, TiesGoToTheSmallestPosition) {
  std::vector<float> scores = RandomScores(2 * 17001, 5);
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = std::round(scores[i / 7 * 7] * 1e5f);
  ExpectExact(scores, 2, 17001, 3000);
  ExpectExact(scores, 1, 34002, 5000);
  ExpectExact(std::vector<float>(9000, 0.25f), 1, 9000, 4500);
}

TEST_F(TopPositionsTest, OfSignsZerosInfinitiesAndNaN) {
  std::vector<float> scores(40001);
  std::mt19937 random(6);
  const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -1.0f, 1.0f, 1e-45f, -1e-45f};
  for (float& x : scores) x = special[random() % std::size(special)];
  for (size_t k : {0, 1000, 3500, 8500, 9001}) ExpectExact(scores, 1, 9001, k);
  for (size_t k : {0, 4000, 15000, 39000, 40001}) ExpectExact(scores, 1, 40001, k);
}

TEST_F(TopPositionsTest, AreFollowedByTheTokensAlwaysKept) {
  ExpectExact(RandomScores(2 * 1000, 7), 2, 1000, 100, 32);
}

TEST_F(TopPositionsTest, HaveTheirOwnNumberPerRow) {
  constexpr size_t kRows = 4, kAppended = 2;
  for (size_t n : {10000, 40000}) {
    const std::vector<float> scores = RandomScores(kRows * n, 8);
    const std::vector<int32_t> offsets = {0, 12, 14, 716, 716 + static_cast<int32_t>(n) + 2};
    const DeviceArray<float> device_scores(scores);
    const DeviceArray<int32_t> device_offsets(offsets);
    const DeviceArray<int32_t> positions(static_cast<size_t>(offsets.back()));
    const DeviceArray<std::byte> workspace(
        std::vector<std::byte>(TopPositionsWorkspaceBytes(kRows, n)));
    ASSERT_TRUE(TopPositions(nullptr, {.scores = device_scores.data(),
                                       .offsets = device_offsets.data(),
                                       .positions = positions.data(),
                                       .workspace = workspace.data(),
                                       .num_rows = kRows,
                                       .num_scores = n,
                                       .scores_row_stride = n,
                                       .num_appended = kAppended})
                    .ok());
    const std::vector<int32_t> got = positions.ToHost();
    for (size_t r = 0; r < kRows; ++r) {
      const size_t count = static_cast<size_t>(offsets[r + 1] - offsets[r]);
      std::vector<int32_t> expected = Expected(&scores[r * n], n, count - kAppended);
      for (size_t i = 0; i < kAppended; ++i) expected.push_back(static_cast<int32_t>(n + i));
      EXPECT_EQ(std::vector<int32_t>(&got[offsets[r]], &got[offsets[r]] + count), expected)
          << "row " << r << " of " << n;
    }
  }
}

}  // namespace
}  // namespace kvship::cuda
