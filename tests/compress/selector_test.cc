#include "compress/selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::ElementsAre;

TEST(SelectTokens, KeepsSinksRecentAndTheBestBetween) {
  const std::vector<float> scores = {0, 0, 5, 1, 9, 3, 7, 0, 0, 0};
  EXPECT_THAT(SelectTokens(scores, 10, {5, 1, 2}), ElementsAre(0, 4, 6, 8, 9));
}

TEST(SelectTokens, ScoresOfAlwaysKeptTokensDoNotCount) {
  const std::vector<float> scores = {9, 9, 1, 2, 3, 9, 9};
  EXPECT_THAT(SelectTokens(scores, 7, {5, 2, 2}), ElementsAre(0, 1, 4, 5, 6));
}

TEST(SelectTokens, TiesGoToTheSmallestPosition) {
  const std::vector<float> scores(6, 1.0f);
  EXPECT_THAT(SelectTokens(scores, 8, {4, 0, 2}), ElementsAre(0, 1, 6, 7));
}

TEST(SelectTokens, UnscoredPositionsComeLast) {
  const std::vector<float> scores = {-5, -7};
  EXPECT_THAT(SelectTokens(scores, 6, {2, 0, 1}), ElementsAre(0, 5));
  EXPECT_THAT(SelectTokens(scores, 6, {4, 0, 1}), ElementsAre(0, 1, 2, 5));
}

TEST(SelectTokens, TheWholePromptIsItself) {
  const std::vector<float> scores = {1, 2, 3};
  EXPECT_THAT(SelectTokens(scores, 3, {3, 0, 1}), ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace kvship
