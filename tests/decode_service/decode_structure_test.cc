// What is decoded under a structure, and what that costs the others of the batch: nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "tests/decode_service/decode_loop_fixture.h"
#include "tests/eventually.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::SizeIs;

// Allows the tokens of a list, each at its place; but the first, which may be any. If `held`, what
// follows the first two is found when `go` says so.
class ListMatcher final : public OutputMatcher {
 public:
  explicit ListMatcher(std::vector<int32_t> tokens, std::atomic<bool>* held = nullptr,
                       std::shared_future<void> go = {})
      : tokens_(std::move(tokens)), held_(held), go_(std::move(go)) {}

  absl::Status Accept(int32_t token) override {
    if (taken_++ == 0 || token == tokens_[taken_ - 1]) return absl::OkStatus();
    return absl::InvalidArgumentError("it is not the next one");
  }
  absl::StatusOr<TokenMask> Allowed() override {
    if (held_ != nullptr && taken_ == 2) {
      *held_ = true;
      go_.wait();
    }
    if (taken_ == tokens_.size()) return absl::InternalError("nothing goes on");
    TokenMask mask(TokenMaskWords(320));
    mask[tokens_[taken_] / 32] |= 1u << tokens_[taken_] % 32;
    return mask;
  }

 private:
  const std::vector<int32_t> tokens_;
  std::atomic<bool>* const held_;
  const std::shared_future<void> go_;
  size_t taken_ = 0;
};

TEST_F(DecodeLoopTest, AMatcherSaysWhichTokensMayCome) {
  StartLoop();
  Request free, held, stuck;
  const auto prompt = node_.Prompt(90, 1);
  Start(free, prompt, kKeepAll, {.max_tokens = 6});
  Start(held, prompt, kKeepAll, {.sampling = {.temperature = 1}, .max_tokens = 4},
        std::make_unique<ListMatcher>(std::vector<int32_t>{0, 17, 0, 319}));
  Start(stuck, prompt, kKeepAll, {.max_tokens = 4},
        std::make_unique<ListMatcher>(std::vector<int32_t>{0, 5}));
  for (Request* request : {&free, &held, &stuck}) ASSERT_TRUE(Finish(*request));
  EXPECT_THAT(free.reader.tokens, ElementsAreArray(node_.Reference(prompt, kKeepAll, 6)));
  held.reader.tokens.erase(held.reader.tokens.begin());  // the prefill node's
  EXPECT_THAT(held.reader.tokens, ElementsAre(17, 0, 319));
  EXPECT_EQ(stuck.reader.tokens.back(), 5);
  EXPECT_EQ(stuck.end.status, absl::InternalError("nothing goes on"));
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, AStructureThatTakesLongHoldsUpItsOwnOutputAlone) {
  StartLoop();
  const auto prompt = node_.Prompt(90, 1);
  const std::vector<int32_t> list = {0, 17, 4, 319};
  const OutputOptions options = {.max_tokens = 4, .num_logprobs = 2};
  Request undisturbed, held, other;
  Start(undisturbed, prompt, kKeepAll, options, std::make_unique<ListMatcher>(list));
  ASSERT_TRUE(Finish(undisturbed));

  std::promise<void> go;
  std::atomic<bool> is_held = false;
  Start(held, prompt, kKeepAll, options,
        std::make_unique<ListMatcher>(list, &is_held, go.get_future().share()));
  ASSERT_TRUE(Eventually([&] { return is_held.load(); }, absl::Seconds(20)));
  Start(other, prompt, kKeepAll, {.max_tokens = 30});
  ASSERT_TRUE(Finish(other));
  EXPECT_THAT(other.reader.tokens, ElementsAreArray(node_.Reference(prompt, kKeepAll, 30)));
  held.reader.Take();
  EXPECT_THAT(held.reader.tokens, SizeIs(2));

  go.set_value();
  ASSERT_TRUE(Finish(held));
  EXPECT_THAT(held.reader.tokens, ElementsAreArray(undisturbed.reader.tokens));
  for (size_t i = 0; i < list.size(); ++i) {  // drawn from the logits of its own step
    EXPECT_EQ(held.reader.details[i].logprob(), undisturbed.reader.details[i].logprob());
  }
}

TEST_F(DecodeLoopTest, ARequestEndsThoughItsStructureTakesLong) {
  StartLoop();
  std::promise<void> go;
  std::atomic<bool> is_held = false;
  Request held;
  Start(held, node_.Prompt(90, 1), kKeepAll, {.max_tokens = 4},
        std::make_unique<ListMatcher>(std::vector<int32_t>{0, 17, 4, 319}, &is_held,
                                      go.get_future().share()));
  ASSERT_TRUE(Eventually([&] { return is_held.load(); }, absl::Seconds(20)));
  held.reader.responses->Cancel(absl::CancelledError("gone"));
  EXPECT_TRUE(held.reader.ReadUntil([&] { return held.ended.load(); }));
  EXPECT_EQ(held.reserved_at_end, 0u);
  go.set_value();
}

}  // namespace
}  // namespace kvship
