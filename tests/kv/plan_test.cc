#include "kv/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
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
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("budget_ratio is 0.1 of the prompt's 300 tokens, which gives a head of "
                        "layer 0 30 tokens"));
}

TEST(Plan, RefusesAnEmptyPromptAndAWindowLongerThanThePrompt) {
  EXPECT_EQ(MakePlan({}, kShape, 0).status().code(), absl::StatusCode::kInvalidArgument);
  auto plan = MakePlan(Options("budget_tokens=10,recent_tokens=0,window=64"), kShape, 50);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("window is 64"));
}

// beta 5 and a base of 48.5 of 200 tokens in 2 layers: kvpress keeps 87 and 10.
TEST(Plan, PyramidFallsByEqualStepsAsInKvpress) {
  KvShape shape = kShape;
  shape.num_layers = 2;
  auto plan = MakePlan(Options("allocator=pyramid,beta=5,window=8,kernel=5,budget_ratio=0.2425"),
                       shape, 200);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->budgets[0].tokens, 87u);
  EXPECT_EQ(plan->budgets[1].tokens, 10u);
  shape.num_layers = 1;
  plan = MakePlan(Options("allocator=pyramid,beta=5,window=8,budget_ratio=0.2425"), shape, 200);
  EXPECT_EQ(plan->budgets[0].tokens, 87u) << "one layer keeps the most";
}

// As the authors' code does: 68 tokens beside the window, of which the last layer has a twentieth.
TEST(Plan, APyramidWhoseTopWouldNotHoldTheWindowStandsBesideIt) {
  auto plan = MakePlan(Options("allocator=pyramid,budget_tokens=100"), kShape, 1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->budgets[0].tokens, 165u);  // 32 + 2 * 68 - 3.4
  EXPECT_EQ(plan->budgets[1].tokens, 100u);
  EXPECT_EQ(plan->budgets[2].tokens, 35u);  // 32 + 3.4
  plan = MakePlan(Options("allocator=pyramid,budget_tokens=100,sinks=8"), kShape, 1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->budgets[2].tokens, 43u);  // 40 + 60 / 20
}

TEST(Plan, APyramidHoldsAWindowThatIsGivenByItsPlace) {
  auto plan =
      MakePlan(Options("allocator=pyramid,budget_tokens=256,observe_begin=-100"), kShape, 2000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->budgets[2].tokens, 108u);  // 100 + 156 / 20
}

// Above T - W the first layer would keep less than the last, and lose what the last has no room
// for.
TEST(Plan, APyramidWhoseFirstLayerCannotHoldTheMeanIsUniform) {
  auto layers = [](size_t budget_tokens) {
    const std::string text =
        absl::StrCat("allocator=pyramid,window=16,budget_tokens=", budget_tokens);
    return MakePlan(Options(text.c_str()), kShape, 1000)->layer_tokens;
  };
  EXPECT_THAT(layers(980), ElementsAre(2 * 984u, 2 * 980u, 2 * 976u));
  for (size_t tokens : {984, 990, 995}) EXPECT_THAT(layers(tokens), Each(2 * tokens));
}

TEST(Plan, ScorersKeepTheirFirstAndLastTokens) {
  auto budget = [](const char* text) { return MakePlan(Options(text), kShape, 1000)->budgets[0]; };
  EXPECT_EQ(budget("budget_tokens=100"), (HeadBudget{100, 0, 32}));
  EXPECT_EQ(budget("scorer=h2o,budget_tokens=101"), (HeadBudget{101, 0, 50}));
  EXPECT_EQ(budget("scorer=tova,budget_tokens=10"), (HeadBudget{10, 0, 1}));
  EXPECT_EQ(budget("scorer=streaming_llm,budget_tokens=100"), (HeadBudget{100, 4, 96}));
  EXPECT_EQ(budget("scorer=expected_attention,budget_tokens=100"), (HeadBudget{100, 4, 32}));
  EXPECT_EQ(budget("scorer=h2o,recent_tokens=0,sinks=2,budget_tokens=9"), (HeadBudget{9, 2, 0}));
}

TEST(Plan, RaggedHeadsAreBoundedByTheirSum) {
  for (const char* text : {"allocator=ada,budget_tokens=100", "allocator=mass,budget_tokens=100"}) {
    auto plan = MakePlan(Options(text), kShape, 1000);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(plan->bounded);
    EXPECT_THAT(plan->layer_tokens, Each(200u));
    // 33 + 167 and 1 + 199 tokens take 2 + 6 and 1 + 7 pages; no split takes more.
    EXPECT_EQ(plan->layer_pages(0), 8u);
  }
}

TEST(Plan, ChunksAreCountedWhole) {
  const CompressionOptions options =
      Options("selector=chunks,chunk_tokens=10,window=16,budget_ratio=0.2425");
  EXPECT_EQ(NumChunks(options, 200, 48), 4u) << "20 chunks, 4.85 of them";
  auto plan = MakePlan(options, kShape, 200);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->layer_tokens, Each(2u * 40));
}

TEST(Plan, TheWindowMayStayInFullPrecision) {
  KvShape shape = kShape;
  shape.head_dim = 32;
  auto plan = MakePlan(Options("encoder=int4,window_encoder=f16,budget_tokens=100"), shape, 1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->tail_tokens, 32u);
  EXPECT_THAT(plan->layer_tokens, Each(200u));
  EXPECT_EQ(plan->layer_pages(0), 2u * 3) << "68 tokens of each head are quantized";
  EXPECT_EQ(plan->wire_bytes(), 3u * (6 * PageBytes(PageFormat::kInt4, 32) + 2 * 68 * 4 +
                                      2 * PageBytes(PageFormat::kF16, 32)));
  auto half = MakePlan(Options("scorer=tova,encoder=int4,window_encoder=f16"), shape, 5000);
  EXPECT_EQ(half->tail_tokens, 1u) << "only what every head keeps for certain";
}

TEST(Plan, TheObservationWindowMayStandAnywhere) {
  auto plan =
      MakePlan(Options("observe_begin=600,observe_end=-300,budget_tokens=500"), kShape, 1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->window_begin, 600u);
  EXPECT_EQ(plan->window_end, 700u);
  EXPECT_EQ(plan->budgets[0].recent_tokens, 400u) << "the question and all behind it";
  plan = MakePlan(Options("scorer=knorm,observe_begin=0,observe_end=50,budget_tokens=60"), kShape,
                  1000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->budgets[0].recent_tokens, 50u) << "where all have scores, the window's number";
  plan = MakePlan(Options("observe_begin=600,observe_end=1200"), kShape, 1100);
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("600 to 1200; wanted a range within"));
  plan = MakePlan(Options("observe_begin=0,observe_end=50,budget_tokens=900"), kShape, 1000);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("observe_begin is 0"));
  plan = MakePlan(Options("observe_begin=100,budget_tokens=200"), kShape, 1000);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("wanted at least the 900"));
}

TEST(Plan, RefusesIntegersForAHeadSizeTheyDoNotDivide) {
  auto plan = MakePlan(Options("encoder=int4"), kShape, 10);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("head size is 16"));
}

TEST(Plan, UncompressedIsTheWholeCacheInFullPrecision) {
  KvShape shape = kShape;
  shape.head_dim = 32;
  const size_t f16 = MakePlan(Options("scorer=keep_all"), shape, 1000)->wire_bytes();
  EXPECT_EQ(MakePlan(Options("budget_tokens=100"), shape, 1000)->uncompressed_bytes(), f16);
  EXPECT_EQ(MakePlan(Options("encoder=int4"), shape, 1000)->uncompressed_bytes(), f16);
  EXPECT_EQ(MakePlan(Options("encoder=f32"), shape, 1000)->uncompressed_bytes(), 2 * f16);
}

}  // namespace
}  // namespace kvship
