#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sorts all positions, best first.
std::vector<int32_t> TopBySorting(std::span<const float> scores, size_t k) {
  std::vector<int32_t> positions(scores.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::stable_sort(positions.begin(), positions.end(), [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
    return x > y;
  });
  positions.resize(std::min(k, positions.size()));
  std::sort(positions.begin(), positions.end());
  return positions;
}

TEST(TopPositions, EqualSortingForEveryShortRow) {
  const float values[] = {0.5f, -1.0f, 2.0f, kNan};
  for (size_t n = 1; n <= 6; ++n) {
    const size_t num_rows = size_t{1} << 2 * n;
    for (size_t row = 0; row < num_rows; ++row) {
      std::vector<float> scores(n);
      for (size_t i = 0; i < n; ++i) scores[i] = values[row >> 2 * i & 3];
      for (size_t k = 0; k <= n + 1; ++k) {
        ASSERT_EQ(TopPositions(scores, k), TopBySorting(scores, k)) << "row " << row << " k " << k;
      }
    }
  }
}

TEST(TopPositions, EqualSortingOnLongRowsWithPlateaus) {
  for (const uint64_t num_values : {1u, 2u, 10u, 300u, 1u << 30}) {
    std::vector<float> scores(1000);
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = static_cast<float>(RandomBits(num_values, i) % num_values) - 100.0f;
    }
    for (const size_t k : {1, 31, 500, 999}) {
      ASSERT_EQ(TopPositions(scores, k), TopBySorting(scores, k)) << num_values << " k " << k;
    }
  }
}

TEST(TopPositions, TiesGoToTheSmallestPosition) {
  EXPECT_THAT(TopPositions(std::vector<float>(8, 1.0f), 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(TopPositions(std::vector<float>{1, 2, 1, 2, 1}, 3), ElementsAre(0, 1, 3));
  EXPECT_THAT(TopPositions(std::vector<float>{-0.0f, 0.0f, -0.0f}, 2), ElementsAre(0, 1))
      << "both zeros are the same score";
}

TEST(TopPositions, NanIsTheSmallestScore) {
  EXPECT_THAT(TopPositions(std::vector<float>{kNan, -kInfinity, -kNan, 0}, 2), ElementsAre(1, 3));
  EXPECT_THAT(TopPositions(std::vector<float>{kNan, -kInfinity, -kNan, 0}, 3),
              ElementsAre(0, 1, 3));
}

TEST(RankedPositions, AreTheTopPositionsBestFirst) {
  EXPECT_THAT(RankedPositions(std::vector<float>{1, kNan, 3, 1, 3, 2}, 4), ElementsAre(2, 4, 5, 0));
  EXPECT_THAT(RankedPositions(std::vector<float>{1, kNan, 3, 1, 3, 2}, 6),
              ElementsAre(2, 4, 5, 0, 3, 1));
  EXPECT_THAT(RankedPositions(std::vector<float>{1, 2}, 0), IsEmpty());
}

TEST(TopPositions, NoneAndAll) {
  const std::vector<float> scores = {3, 1, 2};
  EXPECT_THAT(TopPositions(scores, 0), IsEmpty());
  EXPECT_THAT(TopPositions(scores, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(TopPositions(scores, 100), ElementsAre(0, 1, 2));
  EXPECT_THAT(TopPositions({}, 2), IsEmpty());
}

}  // namespace
}  // namespace kvship
