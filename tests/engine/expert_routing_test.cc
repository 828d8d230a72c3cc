#include "engine/expert_routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ModelConfig Mixture(size_t num_experts, size_t experts_per_token, bool normalizes) {
  ModelConfig config;
  config.num_experts = num_experts;
  config.experts_per_token = experts_per_token;
  config.normalizes_expert_weights = normalizes;
  return config;
}

class ExpertRoutingTest : public ::testing::Test {
 protected:
  // [rows, experts] logits.
  void Choose(ExpertRouting& routing, std::vector<float> logits, size_t num_experts,
              size_t first_row = 0) {
    routing.Choose(backend_, TensorView(logits.data(), {logits.size() / num_experts, num_experts}),
                   first_row);
  }

  Backend backend_{2};
};

std::vector<RoutedRow> RowsOf(ExpertRouting& routing, size_t expert) {
  std::vector<RoutedRow> rows;
  for (const RoutedRow& row : routing.ByExpert()) {
    if (row.expert == expert) rows.push_back(row);
  }
  return rows;
}

std::vector<uint32_t> Rows(ExpertRouting& routing, size_t expert) {
  std::vector<uint32_t> rows;
  for (const RoutedRow& row : RowsOf(routing, expert)) rows.push_back(row.row);
  return rows;
}

TEST_F(ExpertRoutingTest, ChoosesTheLargestAndGroupsRowsByExpert) {
  ExpertRouting routing(Mixture(4, 2, true));
  std::vector<float> logits = {1, 3, 2, -1,  //
                               5, 0, 0, 4,   //
                               0, 2, 1, 9};
  Choose(routing, logits, 4, 10);
  EXPECT_THAT(Rows(routing, 0), ElementsAre(11));
  EXPECT_THAT(Rows(routing, 1), ElementsAre(10, 12));
  EXPECT_THAT(Rows(routing, 2), ElementsAre(10));
  EXPECT_THAT(Rows(routing, 3), ElementsAre(11, 12));
  EXPECT_FLOAT_EQ(RowsOf(routing, 1)[0].weight, 1 / (1 + std::exp(-1.0f)));
  EXPECT_FLOAT_EQ(RowsOf(routing, 2)[0].weight, std::exp(-1.0f) / (1 + std::exp(-1.0f)));
  routing.Clear();
  EXPECT_THAT(Rows(routing, 1), IsEmpty());
}

TEST_F(ExpertRoutingTest, SharesThatAreNotNormalizedAreThoseAmongAllExperts) {
  ExpertRouting routing(Mixture(4, 1, false));
  std::vector<float> logits = {2, 1, 1, 1};
  Choose(routing, logits, 4);
  EXPECT_FLOAT_EQ(RowsOf(routing, 0)[0].weight,
                  std::exp(2.0f) / (std::exp(2.0f) + 3 * std::exp(1.0f)));
}

TEST_F(ExpertRoutingTest, OfEqualExpertsTheFirstAreChosen) {
  ExpertRouting routing(Mixture(5, 3, true));
  std::vector<float> logits = {0, 7, 7, 7, 7};
  Choose(routing, logits, 5);
  EXPECT_THAT(Rows(routing, 0), IsEmpty());
  EXPECT_THAT(Rows(routing, 4), IsEmpty());
  for (size_t expert : {1, 2, 3}) EXPECT_FLOAT_EQ(RowsOf(routing, expert)[0].weight, 1.0f / 3);
}

TEST_F(ExpertRoutingTest, AllExpertsMayBeChosen) {
  ExpertRouting routing(Mixture(3, 3, true));
  std::vector<float> logits = {-1000, 0, 1000};
  Choose(routing, logits, 3);
  EXPECT_EQ(RowsOf(routing, 0)[0].weight, 0);
  EXPECT_EQ(RowsOf(routing, 1)[0].weight, 0);
  EXPECT_EQ(RowsOf(routing, 2)[0].weight, 1);
}

TEST_F(ExpertRoutingTest, ARowWithANanHasDifferentExpertsAndNanForWeights) {
  for (const std::vector<float>& logits :
       {std::vector<float>(4, NAN), {NAN, NAN, NAN, 1}, {1, 2, NAN, 0.5}, {1, 2, 3, NAN}}) {
    ExpertRouting routing(Mixture(4, 2, true));
    Choose(routing, logits, 4);
    const auto rows = routing.ByExpert();
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_NE(rows[0].expert, rows[1].expert);
    for (const RoutedRow& row : rows) EXPECT_TRUE(std::isnan(row.weight));
  }
}

TEST_F(ExpertRoutingTest, ARowsChoiceIsItsOwn) {
  constexpr size_t kRows = 50, kExperts = 16;
  std::vector<float> logits(kRows * kExperts);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(6 * UniformUnit(1, i));
  }
  ExpertRouting together(Mixture(kExperts, 4, true)), alone(Mixture(kExperts, 4, true));
  Choose(together, logits, kExperts);
  for (size_t row = 0; row < kRows; ++row) {
    Choose(alone, {logits.begin() + row * kExperts, logits.begin() + (row + 1) * kExperts},
           kExperts, row);
  }
  for (size_t expert = 0; expert < kExperts; ++expert) {
    ASSERT_EQ(RowsOf(together, expert).size(), RowsOf(alone, expert).size());
    for (size_t i = 0; i < RowsOf(together, expert).size(); ++i) {
      EXPECT_EQ(RowsOf(together, expert)[i].row, RowsOf(alone, expert)[i].row);
      EXPECT_EQ(RowsOf(together, expert)[i].weight, RowsOf(alone, expert)[i].weight);
    }
  }
}

TEST(RoutedRows, AreTakenExpertByExpert) {
  const std::vector<RoutedRow> rows = {{0, 3, 1}, {5, 3, 1}, {6, 3, 1}, {1, 7, 1}};
  EXPECT_EQ(RowsOfFirstExpert(rows, 9).size(), 3u);
  EXPECT_EQ(RowsOfFirstExpert(rows, 2).size(), 2u);
  EXPECT_EQ(RowsOfFirstExpert(std::span(rows).last(1), 9).size(), 1u);
}

TEST(RoutedRows, AreGatheredAndAddedTimesTheirWeights) {
  Backend backend(2);
  constexpr size_t kRows = 70, kCols = 5;
  std::vector<float> x(kRows * kCols), gathered(40 * kCols), out(kRows * kCols, 1);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  std::vector<RoutedRow> rows;
  for (uint32_t i = 0; i < 40; ++i) rows.push_back({i + i / 2, 0, 0.5f * static_cast<float>(i)});
  const TensorView some(gathered.data(), {rows.size(), kCols});
  GatherRows(backend, TensorView(x.data(), {kRows, kCols}), rows, some);
  AddRows(backend, some, rows, TensorView(out.data(), {kRows, kCols}));
  std::vector<float> wanted(kRows * kCols, 1);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t c = 0; c < kCols; ++c) {
      ASSERT_EQ(gathered[i * kCols + c], x[rows[i].row * kCols + c]);
      wanted[rows[i].row * kCols + c] += rows[i].weight * gathered[i * kCols + c];
    }
  }
  EXPECT_EQ(out, wanted);
}

}  // namespace
}  // namespace kvship
