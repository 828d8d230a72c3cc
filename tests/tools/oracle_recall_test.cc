// recall@B by hand, and what a tiny checkpoint's generated tokens attend to.
#include "tools/oracle_recall.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "tools/window_attention.h"

namespace kvship {
namespace {

double Recall(const std::vector<float>& future, const std::vector<int32_t>& kept, size_t begin = 0,
              size_t end = SIZE_MAX) {
  return RecallOf(future, kept, begin, std::min(end, future.size()));
}

TEST(RecallOf, IsTheShareOfTheBestThatIsKept) {
  const std::vector<float> future = {5, 1, 4, 0, 3};
  EXPECT_EQ(Recall(future, {0, 2}), 1);
  EXPECT_EQ(Recall(future, {0, 1}), 0.5);
  EXPECT_EQ(Recall(future, {1, 3}), 0);
  EXPECT_EQ(Recall(future, {1, 2, 4}), 2.0 / 3);
}

TEST(RecallOf, WantsTheSmallestOfEqualPositions) {
  const std::vector<float> future = {1, 2, 2, 2, 0};
  EXPECT_EQ(Recall(future, {1, 2}), 1);
  EXPECT_EQ(Recall(future, {1, 3}), 0.5);
  EXPECT_EQ(Recall({0, 0, 0, 0}, {2, 3}), 0);
}

TEST(RecallOf, CountsOnlyTheRange) {
  const std::vector<float> future = {9, 1, 2, 8, 9};
  EXPECT_EQ(Recall(future, {0, 1, 4}), 2.0 / 3);
  EXPECT_EQ(Recall(future, {0, 1, 4}, 1, 4), 0) << "position 3 is wanted in the place of 1";
  EXPECT_EQ(Recall(future, {0, 3, 4}, 1, 4), 1);
  EXPECT_EQ(Recall(future, {0, 1, 2, 3, 4}, 1, 4), 1);
}

TEST(RecallOf, IsNoNumberWhereNothingIsKept) {
  EXPECT_TRUE(std::isnan(Recall({1, 2, 3}, {})));
  EXPECT_TRUE(std::isnan(Recall({1, 2, 3}, {0, 2}, 1, 2)));
}

// One layer of a prompt of 10 tokens, with the window's begin at 8.
LocalRun::Prefilled Kept(std::vector<std::vector<int32_t>> positions) {
  LocalRun::Prefilled prefilled;
  prefilled.plan.prompt_tokens = 10;
  prefilled.plan.window_begin = 8;
  prefilled.plan.window_end = 10;
  prefilled.layers.emplace_back().positions = std::move(positions);
  return prefilled;
}

const FutureAttention kFuture = {{{9, 0, 0, 0, 5, 4, 3, 2, 8, 7}, {0, 0, 0, 0, 1, 2, 3, 4, 0, 0}}};

TEST(Recalls, AreMeansOverTheHeadsOfALayerEachWithItsOwnBudget) {
  // Best of head 0: 0, 8, 9, 4, 5, ...; without the first 4 and the window: 4, 5, 6, 7.
  const LayerRecall recall = Recalls(kFuture, Kept({{0, 4, 6, 8}, {7, 8}}))[0];
  EXPECT_DOUBLE_EQ(recall.all, (3.0 / 4 + 1.0 / 2) / 2);
  EXPECT_DOUBLE_EQ(recall.middle, (1.0 / 2 + 1) / 2);
}

TEST(Recalls, LeaveOutHeadsThatKeepNothingOfTheMiddle) {
  EXPECT_EQ(Recalls(kFuture, Kept({{0, 8, 9}, {7, 8}}))[0].middle, 1);
  EXPECT_TRUE(std::isnan(Recalls(kFuture, Kept({{0, 8, 9}, {8, 9}}))[0].middle));
}

TEST(Recalls, HoldSetsOfQueryHeadsAgainstTheirKvHead) {
  EXPECT_EQ(Recalls(kFuture, Kept({{0}, {0}, {7}, {0}}))[0].all, 3.0 / 4);
}

class FutureOfTinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = KVSHIP_GOLDENS "/models/llama";
    auto model = LoadTransformer(path);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    run_.emplace(*model_, LocalRun::Options{});
    std::ifstream file(path + "/golden.json");
    nlohmann::json::parse(file).at("prompt_tokens").get_to(prompt_);
  }

  std::unique_ptr<const Transformer> model_;
  std::optional<LocalRun> run_;
  std::vector<int32_t> prompt_;
};

TEST_F(FutureOfTinyModel, IsWhatAWindowOfTheGeneratedTokensVotesFor) {
  constexpr size_t kGenerated = 9;
  const auto future = MeasureFutureAttention(*run_, prompt_, kGenerated);
  ASSERT_TRUE(future.ok()) << future.status();
  auto prefilled = run_->Prefill(prompt_, *ParseCompression("scorer=keep_all"), kGenerated);
  ASSERT_TRUE(prefilled.ok()) << prefilled.status();
  const auto output = *run_->Generate(*prefilled, kGenerated, /*stop_at_end=*/true);
  std::vector<int32_t> tokens = prompt_;
  tokens.insert(tokens.end(), output.begin(), output.end());
  const auto voted = MeasureWindowAttention(*run_, tokens, {{prompt_.size(), tokens.size() - 1}},
                                            {.prefix_tokens = prompt_.size(), .voted_share = 0.2});
  ASSERT_TRUE(voted.ok()) << voted.status();
  ASSERT_EQ(future->size(), model_->config.num_layers);
  for (size_t layer = 0; layer < future->size(); ++layer) {
    ASSERT_EQ((*future)[layer].size(), model_->config.num_kv_heads);
    for (size_t h = 0; h < (*future)[layer].size(); ++h) {
      EXPECT_EQ(Recall((*future)[layer][h], (*voted)[0].voted[layer][h]), 1);
    }
  }
}

TEST_F(FutureOfTinyModel, IsAllRecalledByABudgetAboveThePrompt) {
  const auto future = MeasureFutureAttention(*run_, prompt_, 5);
  ASSERT_TRUE(future.ok()) << future.status();
  const std::string above = absl::StrCat("budget_tokens=", prompt_.size() + 7);
  for (const std::string& options : {std::string("scorer=keep_all"), above}) {
    const auto whole = run_->Prefill(prompt_, *ParseCompression(options), 1);
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (const LayerRecall& layer : Recalls(*future, *whole)) {
      EXPECT_EQ(layer.all, 1);
      EXPECT_EQ(layer.middle, 1);
    }
  }
}

TEST_F(FutureOfTinyModel, NeedsATokenThatAnotherFollows) {
  EXPECT_EQ(MeasureFutureAttention(*run_, prompt_, 1).status().message(),
            "the model generated 1 of up to 1 tokens; wanted at least 2, as the last one's "
            "attention is not looked at");
}

}  // namespace
}  // namespace kvship
