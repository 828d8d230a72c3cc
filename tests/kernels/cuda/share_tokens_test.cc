#include "kernels/cuda/share_tokens.h"

#include <cmath>
#include <span>

#include "base/random.h"
#include "kernels/scores.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct ShareCase {
  size_t rows, n, num_sure, num_shared;
  std::vector<float> scores;
};

// Sure places first, then the best of what is left of all rows together.
std::vector<int32_t> Expected(const ShareCase& c, size_t appended) {
  std::vector<float> rest;
  std::vector<size_t> rows;
  for (size_t r = 0; r < c.rows; ++r) {
    const std::span row(&c.scores[r * c.n], c.n);
    std::vector<bool> sure(c.n);
    for (int32_t i : kvship::TopPositions(row, c.num_sure)) sure[static_cast<size_t>(i)] = true;
    for (size_t i = 0; i < c.n; ++i) {
      if (sure[i]) continue;
      rest.push_back(row[i]);
      rows.push_back(r);
    }
  }
  std::vector<int32_t> offsets(c.rows + 1);
  for (size_t r = 0; r < c.rows; ++r) {
    offsets[r + 1] = static_cast<int32_t>(c.num_sure + appended);
  }
  for (int32_t i : kvship::TopPositions(rest, c.num_shared)) {
    ++offsets[rows[static_cast<size_t>(i)] + 1];
  }
  for (size_t r = 0; r < c.rows; ++r) offsets[r + 1] += offsets[r];
  return offsets;
}

void ExpectExact(const std::vector<ShareCase>& cases) {
  constexpr size_t kAppended = 5;
  for (const ShareCase& c : cases) {
    SCOPED_TRACE(testing::Message() << c.rows << " rows of " << c.n << ", sure " << c.num_sure
                                    << ", shared " << c.num_shared);
    const DeviceArray<float> scores(c.scores);
    const DeviceArray<int32_t> offsets(c.rows + 1);
    const DeviceArray<std::byte> workspace(
        std::vector<std::byte>(ShareTokensWorkspaceBytes(c.rows)));
    const ShareTokensArgs args = {.scores = scores.data(),
                                  .offsets = offsets.data(),
                                  .workspace = workspace.data(),
                                  .num_rows = c.rows,
                                  .num_scores = c.n,
                                  .scores_row_stride = c.n,
                                  .num_sure = c.num_sure,
                                  .num_shared = c.num_shared,
                                  .num_appended = kAppended};
    ASSERT_TRUE(ShareTokens(nullptr, args).ok());
    const std::vector<int32_t> got = offsets.ToHost();
    ASSERT_EQ(got, Expected(c, kAppended));
    ASSERT_TRUE(ShareTokens(nullptr, args).ok());
    ASSERT_EQ(offsets.ToHost(), got) << "the second call in the same workspace";
  }
}

std::vector<float> RandomScores(size_t size, uint64_t seed) {
  std::vector<float> scores(size);
  for (size_t i = 0; i < size; ++i) {
    scores[i] = static_cast<float>(std::exp(8 * UniformUnit(seed, i) - 12));
  }
  return scores;
}

// Few different ones, so that the boundary is a tie of many.
std::vector<float> TiedScores(size_t size, uint64_t seed) {
  const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -1.0f, 1.0f, 1e-45f};
  std::vector<float> scores(size);
  for (size_t i = 0; i < size; ++i) {
    scores[i] = special[RandomBits(seed, i) % std::size(special)];
  }
  return scores;
}

using ShareTokensTest = DeviceTest;

TEST_F(ShareTokensTest, PlacesGoToTheHighestScoresOfAllRows) {
  ExpectExact({{3, 20000, 100, 1500, RandomScores(60000, 1)},
               {3, 1001, 100, 300, RandomScores(3003, 2)},
               {3, 1001, 0, 3003, RandomScores(3003, 3)},
               {3, 1001, 77, 0, RandomScores(3003, 4)},
               {1, 9000, 10, 100, RandomScores(9000, 5)},
               {40, 50, 3, 700, RandomScores(2000, 6)}});
}

TEST_F(ShareTokensTest, TiesGoToTheSmallerRow) {
  ExpectExact({{3, 4, 0, 6, std::vector<float>(12, 1.0f)},
               {3, 4, 1, 6, std::vector<float>(12, NAN)},
               {3, 4, 4, 0, std::vector<float>(12, 1.0f)}});
  for (size_t num_shared : {0, 1, 100, 500, 800, 900}) {
    ExpectExact({{5, 200, 20, num_shared, TiedScores(1000, num_shared)}});
  }
}

TEST_F(ShareTokensTest, OneRowMayTakeAll) {
  std::vector<float> scores = RandomScores(4 * 600, 7);
  for (size_t i = 0; i < 600; ++i) scores[2 * 600 + i] += 100.0f;
  ExpectExact({{4, 600, 10, 4 * 50, scores}, {4, 600, 0, 600, scores}, {4, 600, 0, 601, scores}});
}

TEST_F(ShareTokensTest, RejectsMorePlacesThanScores) {
  ShareTokensArgs args = {
      .num_rows = 2, .num_scores = 10, .scores_row_stride = 10, .num_sure = 4, .num_shared = 13};
  EXPECT_EQ(ShareTokens(nullptr, args).message(),
            "num_sure 4, num_shared 13: wanted no more places than there are scores");
}

}  // namespace
}  // namespace kvship::cuda
