#include "engine/expert_routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

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

std::vector<uint32_t> Rows(const ExpertRouting& routing, size_t expert) {
  std::vector<uint32_t> rows;
  for (const RoutedRow& row : routing.RowsOf(expert)) rows.push_back(row.row);
  return rows;
}

TEST(ExpertRouting, ChoosesTheLargestAndGroupsRowsByExpert) {
  ExpertRouting routing(Mixture(4, 2, true));
  std::vector<float> logits = {1, 3, 2, -1,  //
                               5, 0, 0, 4,   //
                               0, 2, 1, 9};
  routing.Choose(TensorView(logits.data(), {3, 4}), 10);
  EXPECT_THAT(Rows(routing, 0), ElementsAre(11));
  EXPECT_THAT(Rows(routing, 1), ElementsAre(10, 12));
  EXPECT_THAT(Rows(routing, 2), ElementsAre(10));
  EXPECT_THAT(Rows(routing, 3), ElementsAre(11, 12));
  EXPECT_FLOAT_EQ(routing.RowsOf(1)[0].weight, 1 / (1 + std::exp(-1.0f)));
  EXPECT_FLOAT_EQ(routing.RowsOf(2)[0].weight, std::exp(-1.0f) / (1 + std::exp(-1.0f)));
  routing.Clear();
  EXPECT_THAT(Rows(routing, 1), IsEmpty());
}

TEST(ExpertRouting, SharesThatAreNotNormalizedAreThoseAmongAllExperts) {
  ExpertRouting routing(Mixture(4, 1, false));
  std::vector<float> logits = {2, 1, 1, 1};
  routing.Choose(TensorView(logits.data(), {1, 4}), 0);
  EXPECT_FLOAT_EQ(routing.RowsOf(0)[0].weight,
                  std::exp(2.0f) / (std::exp(2.0f) + 3 * std::exp(1.0f)));
}

TEST(ExpertRouting, OfEqualExpertsTheFirstAreChosen) {
  ExpertRouting routing(Mixture(5, 3, true));
  std::vector<float> logits = {0, 7, 7, 7, 7};
  routing.Choose(TensorView(logits.data(), {1, 5}), 0);
  EXPECT_THAT(Rows(routing, 0), IsEmpty());
  EXPECT_THAT(Rows(routing, 4), IsEmpty());
  for (size_t expert : {1, 2, 3}) EXPECT_FLOAT_EQ(routing.RowsOf(expert)[0].weight, 1.0f / 3);
}

TEST(ExpertRouting, AllExpertsMayBeChosen) {
  ExpertRouting routing(Mixture(3, 3, true));
  std::vector<float> logits = {-1000, 0, 1000};
  routing.Choose(TensorView(logits.data(), {1, 3}), 0);
  EXPECT_EQ(routing.RowsOf(0)[0].weight, 0);
  EXPECT_EQ(routing.RowsOf(1)[0].weight, 0);
  EXPECT_EQ(routing.RowsOf(2)[0].weight, 1);
}

TEST(ExpertRouting, ARowOfNoNumbersHasDifferentExpertsAndNoNumbersForWeights) {
  for (const bool all : {true, false}) {
    ExpertRouting routing(Mixture(4, 2, true));
    std::vector<float> logits(4, NAN);
    if (!all) logits[3] = 1;
    routing.Choose(TensorView(logits.data(), {1, 4}), 0);
    size_t num_chosen = 0;
    for (size_t expert = 0; expert < 4; ++expert) {
      EXPECT_LE(routing.RowsOf(expert).size(), 1u);
      for (const RoutedRow& row : routing.RowsOf(expert)) {
        EXPECT_TRUE(std::isnan(row.weight));
        ++num_chosen;
      }
    }
    EXPECT_EQ(num_chosen, 2u);
  }
}

TEST(ExpertRouting, ARowsChoiceIsItsOwn) {
  constexpr size_t kRows = 50, kExperts = 16;
  std::vector<float> logits(kRows * kExperts);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(6 * UniformUnit(1, i));
  }
  ExpertRouting together(Mixture(kExperts, 4, true)), alone(Mixture(kExperts, 4, true));
  together.Choose(TensorView(logits.data(), {kRows, kExperts}), 0);
  for (size_t row = 0; row < kRows; ++row) {
    alone.Choose(TensorView(logits.data() + row * kExperts, {1, kExperts}), row);
  }
  for (size_t expert = 0; expert < kExperts; ++expert) {
    ASSERT_EQ(together.RowsOf(expert).size(), alone.RowsOf(expert).size());
    for (size_t i = 0; i < together.RowsOf(expert).size(); ++i) {
      EXPECT_EQ(together.RowsOf(expert)[i].row, alone.RowsOf(expert)[i].row);
      EXPECT_EQ(together.RowsOf(expert)[i].weight, alone.RowsOf(expert)[i].weight);
    }
  }
}

TEST(RoutedRows, AreGatheredAndAddedTimesTheirWeights) {
  Backend backend(2);
  constexpr size_t kRows = 70, kCols = 5;
  std::vector<float> x(kRows * kCols), gathered(40 * kCols), out(kRows * kCols, 1);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  std::vector<RoutedRow> rows;
  for (uint32_t i = 0; i < 40; ++i) rows.push_back({i + i / 2, 0.5f * static_cast<float>(i)});
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
