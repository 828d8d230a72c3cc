#include "kernels/cuda/token_chunks.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct ChunkCase {
  size_t heads, tokens, scored, chunk, sinks, recent;
};

std::vector<float> Expected(const ChunkCase& c, const std::vector<float>& scores) {
  float largest = -INFINITY, smallest = INFINITY;
  for (float x : scores) {
    if (std::isnan(x)) continue;
    largest = std::max(largest, x);
    smallest = std::min(smallest, x);
  }
  std::vector<float> means;
  for (size_t begin = 0; begin < c.tokens; begin += c.chunk) {
    const size_t end = std::min(begin + c.chunk, c.tokens);
    double sum = 0;
    for (size_t i = begin; i < end; ++i) {
      double of_token = 0;
      for (size_t h = 0; h < c.heads; ++h) {
        if (i < c.sinks || i >= c.tokens - c.recent) {
          of_token = static_cast<double>(c.heads) * (double{largest} + 1);
        } else if (i >= c.scored) {
          of_token = static_cast<double>(c.heads) * smallest;
        } else {
          of_token += scores[h * c.scored + i];
        }
      }
      sum += of_token;
    }
    means.push_back(static_cast<float>(sum / static_cast<double>(end - begin)));
  }
  return means;
}

void ExpectExact(const ChunkCase& c, const std::vector<float>& scores) {
  SCOPED_TRACE(testing::Message() << c.tokens << " tokens in chunks of " << c.chunk);
  const std::vector<float> wanted = Expected(c, scores);
  const DeviceArray<float> device_scores(scores), chunk_scores(wanted.size());
  const DeviceArray<std::byte> workspace(ChunkScoresWorkspaceBytes());
  ASSERT_EQ(ChunkScores(nullptr, {.scores = device_scores.data(),
                                  .chunk_scores = chunk_scores.data(),
                                  .workspace = workspace.data(),
                                  .num_heads = c.heads,
                                  .num_tokens = c.tokens,
                                  .num_scored = c.scored,
                                  .scores_row_stride = c.scored,
                                  .chunk_tokens = c.chunk,
                                  .num_sinks = c.sinks,
                                  .num_recent = c.recent}),
            absl::OkStatus());
  const std::vector<float> got = chunk_scores.ToHost();
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (std::isnan(wanted[i])) {
      ASSERT_TRUE(std::isnan(got[i])) << "chunk " << i;
    } else {
      ASSERT_EQ(got[i], wanted[i]) << "chunk " << i;
    }
  }
}

std::vector<float> RandomScores(size_t size) {
  std::vector<float> scores(size);
  for (size_t i = 0; i < size; ++i) scores[i] = static_cast<float>(UniformUnit(1, i) - 0.5);
  return scores;
}

using TokenChunksTest = DeviceTest;

TEST_F(TokenChunksTest, ScoreTheMeanOfTheirTokensBitForBit) {
  for (const ChunkCase& c : {ChunkCase{3, 150, 134, 20, 0, 16},
                             {2, 150, 150, 7, 4, 0},
                             {8, 30000, 29968, 20, 4, 32},
                             {1, 5, 5, 20, 0, 0},
                             {2, 40, 40, 1, 1, 1}}) {
    ExpectExact(c, RandomScores(c.heads * c.scored));
  }
}

TEST_F(TokenChunksTest, AlwaysKeptTokensCountAsMoreThanTheLargestScore) {
  const ChunkCase c = {2, 60, 50, 8, 3, 10};
  std::vector<float> scores = RandomScores(100);
  for (float& x : scores) x -= 9.0f;  // the largest is below zero
  ExpectExact(c, scores);
  scores[5] = NAN;
  scores[70] = -INFINITY;
  ExpectExact(c, scores);
  ExpectExact(c, std::vector<float>(100, NAN));
  ExpectExact(c, std::vector<float>(100, -0.0f));
}

TEST_F(TokenChunksTest, OtherTokensWithoutAScoreCountAsTheSmallest) {
  for (const ChunkCase& c : {ChunkCase{2, 60, 50, 8, 3, 4}, {3, 150, 20, 20, 30, 0}}) {
    std::vector<float> scores = RandomScores(c.heads * c.scored);
    ExpectExact(c, scores);
    scores[5] = NAN;
    ExpectExact(c, scores);
    for (float& x : scores) x = std::abs(x) + 9.0f;  // the smallest is above zero
    ExpectExact(c, scores);
    ExpectExact(c, std::vector<float>(scores.size(), NAN));
  }
}

TEST_F(TokenChunksTest, BecomeThePositionsOfEveryHead) {
  for (const auto& [chunks, count] :
       {std::pair{std::vector<int32_t>{0, 3, 7}, 55}, {std::vector<int32_t>{1, 2}, 40}}) {
    constexpr size_t kHeads = 3, kTokens = 155, kChunk = 20;
    const DeviceArray<int32_t> device_chunks(chunks), offsets(kHeads + 1);
    const DeviceArray<int32_t> positions(kHeads * chunks.size() * kChunk);
    ASSERT_EQ(ChunkPositions(nullptr, {.chunks = device_chunks.data(),
                                       .offsets = offsets.data(),
                                       .positions = positions.data(),
                                       .num_heads = kHeads,
                                       .num_tokens = kTokens,
                                       .num_chunks = chunks.size(),
                                       .chunk_tokens = kChunk}),
              absl::OkStatus());
    std::vector<int32_t> wanted;
    for (size_t h = 0; h < kHeads; ++h) {
      for (int32_t chunk : chunks) {
        for (int32_t i = chunk * 20; i < std::min(chunk * 20 + 20, 155); ++i) wanted.push_back(i);
      }
    }
    EXPECT_EQ(offsets.ToHost(), (std::vector<int32_t>{0, count, 2 * count, 3 * count}));
    std::vector<int32_t> got = positions.ToHost();
    got.resize(wanted.size());
    EXPECT_EQ(got, wanted);
  }
}

TEST_F(TokenChunksTest, RejectMoreScoresThanTokens) {
  EXPECT_EQ(ChunkScores(nullptr, {.num_heads = 1,
                                  .num_tokens = 10,
                                  .num_scored = 11,
                                  .scores_row_stride = 11,
                                  .chunk_tokens = 2,
                                  .num_recent = 2})
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
