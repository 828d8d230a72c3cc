// What sessions that are decoded in one batch have to do with each other: nothing but their turns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <set>

#include "tests/decode_service/decode_loop_fixture.h"

namespace kvship {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAreArray;
using ::testing::Le;
using ::testing::SizeIs;

TEST_F(DecodeLoopTest, CompanyInTheBatchChangesNothing) {
  std::promise<void> all_have_joined;
  held_.go = all_have_joined.get_future().share();
  StartLoop();
  std::vector<std::unique_ptr<Request>> requests;
  std::vector<std::vector<int32_t>> prompts;
  for (uint64_t i = 0; i < 5; ++i) {
    prompts.push_back(node_.Prompt(40 + 13 * i, i));
    requests.push_back(std::make_unique<Request>());
    Start(*requests.back(), prompts.back(), i % 2 ? kKeepAll : "budget_tokens=32,window=8",
          {.max_tokens = 10 + i, .num_logprobs = i % 3});  // some draw from their logits
  }
  all_have_joined.set_value();
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(Finish(*requests[i]));
    EXPECT_THAT(requests[i]->reader.tokens,
                ElementsAreArray(node_.Reference(
                    prompts[i], i % 2 ? kKeepAll : "budget_tokens=32,window=8", 10 + i)));
  }
  EXPECT_THAT(held_.steps, Contains(SizeIs(5)));
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, SessionsBeyondTheBatchTakeTurns) {
  std::promise<void> all_have_joined;
  held_.go = all_have_joined.get_future().share();
  StartLoop(/*max_batch_sessions=*/2);
  std::vector<std::unique_ptr<Request>> requests;
  const auto prompt = node_.Prompt(40, 7);
  for (int i = 0; i < 5; ++i) {
    requests.push_back(std::make_unique<Request>());
    Start(*requests.back(), prompt, kKeepAll, {.max_tokens = 12});
  }
  all_have_joined.set_value();
  const auto reference = node_.Reference(prompt, kKeepAll, 12);
  for (auto& request : requests) {
    ASSERT_TRUE(Finish(*request));
    EXPECT_THAT(request->reader.tokens, ElementsAreArray(reference));
  }
  EXPECT_THAT(held_.steps, Each(SizeIs(Le(2u))));
  // The first had begun before others joined.
  std::set<const SequenceCache*> early;
  for (size_t i = 0; i < 4; ++i) early.insert(held_.steps[i].begin(), held_.steps[i].end());
  EXPECT_EQ(early.size(), 5u);
}

TEST_F(DecodeLoopTest, SlowReaderDoesNotHoldUpTheBatch) {
  StartLoop();
  Request slow(/*max_waiting_tokens=*/4);
  Request quick;
  const auto prompt = node_.Prompt(40, 3);
  Start(slow, prompt, kKeepAll, {.max_tokens = 30});
  Start(quick, prompt, kKeepAll, {.max_tokens = 30});
  ASSERT_TRUE(Finish(quick));
  EXPECT_FALSE(slow.ended);
  EXPECT_FALSE(slow.reader.responses->has_room());
  ASSERT_TRUE(Finish(slow));
  EXPECT_THAT(slow.reader.tokens, ElementsAreArray(quick.reader.tokens));
  EXPECT_LT(node_.NumObserved("kvship_decode_time_between_tokens_seconds"), 2 * 29);
}

TEST_F(DecodeLoopTest, AnEndThatTakesLongHoldsUpNoStep) {
  StartLoop();
  std::promise<void> go;
  Request slow;
  slow.may_end = go.get_future().share();
  Request other;
  const auto prompt = node_.Prompt(40, 3);
  Start(slow, prompt, kKeepAll, {.max_tokens = 3});
  Start(other, prompt, kKeepAll, {.max_tokens = 30});
  EXPECT_TRUE(other.reader.ReadUntil([&other] { return other.reader.tokens.size() == 30; }));
  EXPECT_FALSE(slow.ended);
  go.set_value();
  EXPECT_TRUE(Finish(slow));
  EXPECT_TRUE(Finish(other));
}

TEST_F(DecodeLoopTest, DrawsDependOnSeedAndIndexAlone) {
  StartLoop();
  const auto prompt = node_.Prompt(50, 10);
  const OutputOptions options = {.sampling = {.temperature = 1.5, .seed = 11}, .max_tokens = 15};
  Request alone;
  Start(alone, prompt, kKeepAll, options);
  ASSERT_TRUE(Finish(alone));
  std::promise<void> both_have_joined;
  held_.go = both_have_joined.get_future().share();
  Request other;
  Request together;
  Start(other, node_.Prompt(30, 11), kKeepAll,
        {.sampling = {.temperature = 1, .seed = 12}, .max_tokens = 40});
  Start(together, prompt, kKeepAll, options);
  both_have_joined.set_value();
  ASSERT_TRUE(Finish(together));
  ASSERT_TRUE(Finish(other));
  EXPECT_THAT(together.reader.tokens, ElementsAreArray(alone.reader.tokens));
  EXPECT_THAT(held_.steps, Contains(SizeIs(2)));
}

}  // namespace
}  // namespace kvship
