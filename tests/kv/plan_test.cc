#include "kv/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr KvShape kShape = {
    .num_layers = 3, .num_kv_heads = 2, .num_query_heads = 6, .head_dim = 16};

CompressionOptions Options(const char* text) { return *ParseCompression(text); }

TEST(Plan, KeepsTheBudgetPerKvHead) {
  auto plan = MakePlan(Options("budget_tokens=100"), kShape, 1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->layer_tokens, Each(200u));
  EXPECT_EQ(plan->layer_tokens.size(), 3u);
  EXPECT_EQ(plan->num_heads, 2u);
  EXPECT_FALSE(plan->keeps_whole);
  EXPECT_EQ(plan->layer_pages(0), 2u * 4) << "100 tokens take 4 pages of 32";
  EXPECT_EQ(plan->wire_bytes(), 3u * (8 * PageBytes(PageFormat::kF16, 16) + 200 * 4));
}

TEST(Plan, KeepsTheFloorOfARatio) {
  auto plan = MakePlan(Options("budget_ratio=0.2425,window=16"), kShape, 200);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->layer_tokens, Each(2u * 48));
}

TEST(Plan, KeepsASetPerQueryHeadWithoutGroups) {
  auto plan = MakePlan(Options("budget_tokens=100,group_reduce=none"), kShape, 1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_heads, 6u);
  EXPECT_THAT(plan->layer_tokens, Each(600u));
}

TEST(Plan, KeepsAPromptWholeUpToItsBudgetOrMinTokens) {
  for (const char* text : {"budget_tokens=200", "budget_ratio=0.1,min_tokens=200",
                           "scorer=keep_all", "budget_tokens=200,group_reduce=none"}) {
    auto plan = MakePlan(Options(text), kShape, 200);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(plan->keeps_whole) << text;
    EXPECT_THAT(plan->layer_tokens, Each(400u)) << text;
    EXPECT_EQ(plan->wire_bytes(), plan->page_bytes()) << "positions are not sent";
  }
  EXPECT_FALSE(MakePlan(Options("budget_tokens=200"), kShape, 201)->keeps_whole);
}

TEST(Plan, RefusesARatioThatDoesNotHoldTheWindow) {
  auto plan = MakePlan(Options("budget_ratio=0.1"), kShape, 300);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("budget_ratio is 0.1, which is 30"));
}

TEST(Plan, RefusesAnEmptyPromptAndAWindowLongerThanThePrompt) {
  EXPECT_EQ(MakePlan({}, kShape, 0).status().code(), absl::StatusCode::kInvalidArgument);
  auto plan = MakePlan(Options("budget_tokens=10,recent_tokens=0,window=64"), kShape, 50);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("window is 64"));
}

}  // namespace
}  // namespace kvship
