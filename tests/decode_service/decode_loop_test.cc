#include "decode_service/decode_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "absl/time/clock.h"
#include "tests/decode_service/decode_loop_fixture.h"
#include "tests/eventually.h"
#include "tests/no_memory_for.h"

namespace kvship {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr char kBudget[] = "budget_tokens=40,window=8,kernel=7";

TEST_F(DecodeLoopTest, GreedyOutputEqualsTheOneProcessRun) {
  StartLoop();
  for (const char* compression : {kKeepAll, kBudget}) {
    Request request;
    const auto prompt = node_.Prompt(90, 1);
    Start(request, prompt, compression, {.max_tokens = 20});
    ASSERT_TRUE(Finish(request));
    EXPECT_THAT(request.reader.tokens, ElementsAreArray(node_.Reference(prompt, compression, 20)));
    EXPECT_EQ(request.end.reason, v1::GenerateReport::FINISH_REASON_LENGTH);
    EXPECT_EQ(request.end.output_tokens, 20u);
    EXPECT_EQ(request.reserved_at_end, 0u);
  }
}

TEST_F(DecodeLoopTest, CancelledSessionFreesItsPagesAndOthersGoOn) {
  StartLoop();
  Request cancelled(/*max_waiting_tokens=*/2);  // waits for its reader when it is cancelled
  Request other(/*max_waiting_tokens=*/2);
  const auto prompt = node_.Prompt(64, 4);
  Start(cancelled, prompt, kKeepAll, {.max_tokens = 500});
  Start(other, prompt, kKeepAll, {.max_tokens = 8});
  const size_t reserved = node_.pool->reserved_bytes();
  cancelled.reader.responses->Cancel(absl::CancelledError("gone"));
  ASSERT_TRUE(cancelled.reader.ReadUntil([&] { return cancelled.ended.load(); }));
  EXPECT_EQ(cancelled.end.status.code(), absl::StatusCode::kCancelled);
  EXPECT_LT(node_.pool->reserved_bytes(), reserved);
  ASSERT_TRUE(Finish(other));
  EXPECT_THAT(other.reader.tokens, ElementsAreArray(node_.Reference(prompt, kKeepAll, 8)));
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, EndOfTheLoopEndsItsSessions) {
  StartLoop();
  Request request(/*max_waiting_tokens=*/1);
  Start(request, node_.Prompt(40, 5), kKeepAll, {.max_tokens = 500});
  loop_.reset();
  EXPECT_TRUE(request.ended);
  EXPECT_EQ(request.end.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, StepThatDoesNotEndIsToldAndForgottenWhenItEnds) {
  std::promise<void> release;
  held_.go = release.get_future().share();
  StartLoop();
  const absl::Duration kMost = 5 * Heartbeat::kPeriod;
  const absl::Duration kMore = kMost + Heartbeat::kPeriod;
  absl::SleepFor(kMore);
  EXPECT_EQ(loop_->CheckProgress(kMost), absl::OkStatus()) << "who has nothing to do is not stuck";

  Request request;
  Start(request, node_.Prompt(40, 5), kKeepAll, {.max_tokens = 5});
  absl::SleepFor(kMore);
  const absl::Status stuck = loop_->CheckProgress(kMost);
  EXPECT_TRUE(absl::IsUnavailable(stuck)) << stuck;
  EXPECT_THAT(std::string(stuck.message()), HasSubstr("in one step for"));
  EXPECT_EQ(loop_->CheckProgress(absl::Hours(1)), absl::OkStatus());
  EXPECT_TRUE(absl::IsInternal(loop_->CheckProgress(kMost / Heartbeat::kHopeless)));
  release.set_value();
  ASSERT_TRUE(Finish(request));
  EXPECT_TRUE(request.reader.ReadUntil([&] { return loop_->CheckProgress(kMost).ok(); }));
}

TEST_F(DecodeLoopTest, StepThatFailsIsLoggedAndNoMistakeOfTheCaller) {
  ::testing::internal::CaptureStdout();
  const absl::Status end = EndAfter(absl::InvalidArgumentError("head size 20"));
  loop_.reset();
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              HasSubstr("a decode step failed: INVALID_ARGUMENT: head size 20"));
  EXPECT_EQ(end, absl::InternalError("head size 20"));
}

TEST_F(DecodeLoopTest, AStepThatFailsOnALostDeviceIsToldForGood) {
  const absl::Status error = absl::InternalError("illegal address");
  EXPECT_EQ(EndAfter(error), error);
  EXPECT_EQ(loop_->CheckProgress(absl::Hours(1)), absl::OkStatus());
  loop_.reset();  // whose thread looks at the device
  broken_.device = error;
  EXPECT_EQ(EndAfter(error), error);
  EXPECT_TRUE(absl::IsInternal(loop_->CheckProgress(absl::Hours(1))));
}

TEST_F(DecodeLoopTest, ADeviceThatIsLostBetweenStepsIsToldForGood) {
  broken_.device = absl::InternalError("illegal address");
  loop_ = std::make_unique<DecodeLoop>(broken_, backend_.threads(), node_.metrics, 1);
  EXPECT_TRUE(Eventually([this] { return absl::IsInternal(loop_->CheckProgress(absl::Hours(1))); },
                         absl::Seconds(5)));
}

TEST_F(DecodeLoopTest, StepWithoutMemoryEndsItsRequestsAsSuch) {
  const absl::Status full = absl::ResourceExhaustedError("no memory left");
  EXPECT_EQ(EndAfter(full), full);
}

TEST_F(DecodeLoopTest, ATokenThatMemoryDoesNotHoldEndsItsRequest) {
  const absl::Status end = EndAfter(absl::OkStatus(), /*num_logprobs=*/2);
  EXPECT_TRUE(absl::IsResourceExhausted(end)) << end;
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, LogitsThatAreNoNumbersEndTheirRequest) {
  broken_.has_memory = true;
  for (const size_t num_logprobs : {0, 2}) {
    EXPECT_EQ(EndAfter(absl::OkStatus(), num_logprobs), NoLogits());
    EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
  }
}

TEST_F(DecodeLoopTest, ASessionForWhichThereIsNoMemoryEndsAsItJoins) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "not under a sanitizer";
  StartLoop();
  TinyNode::Prefilled prefilled = node_.Prefill(node_.Prompt(40, 3), kKeepAll, 4);
  Session::End end;
  Reader reader;
  const auto session = std::make_shared<Session>(OutputOptions{.max_tokens = 5}, &tokenizer_,
                                                 std::move(prefilled.cache), reader.responses,
                                                 [&end](const Session::End& how) { end = how; });
  session->Take({.token = 1, .logprob = 0, .top = {}});
  {
    const NoMemoryFor none(sizeof(session), /*in_this_thread_alone=*/true);
    loop_->Join(session);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(end.status)) << end.status;
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, ForcedTokensAreOutputWithTheirLogprobs) {
  StartLoop();
  Request request;
  const std::vector<int32_t> forced = {5, 17, 2, 300, 9};
  Start(request, node_.Prompt(50, 6), kKeepAll,
        {.max_tokens = forced.size(), .num_logprobs = 3, .forced_tokens = forced});
  ASSERT_TRUE(Finish(request));
  EXPECT_THAT(request.reader.tokens, ElementsAreArray(forced));
  EXPECT_EQ(request.reader.text, "frcj");  // 300 is special: it has no text
  for (const v1::OutputToken& token : request.reader.details) {
    EXPECT_LT(token.logprob(), 0);
    ASSERT_EQ(token.top_size(), 3);
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
    EXPECT_GE(token.top(0).logprob(), token.logprob());
  }
}

TEST_F(DecodeLoopTest, EndTokenEndsTheOutputAndHasNoText) {
  StartLoop();
  const auto prompt = node_.Prompt(50, 8);
  const auto reference = node_.Reference(prompt, kKeepAll, 12);
  size_t at = 5;  // the first occurrence of some later token
  while (std::find(reference.begin(), reference.begin() + at, reference[at]) !=
         reference.begin() + at) {
    ++at;
  }
  Request request;
  Start(request, prompt, kKeepAll, {.max_tokens = 12, .end_tokens = {reference[at]}});
  ASSERT_TRUE(Finish(request));
  EXPECT_EQ(request.end.reason, v1::GenerateReport::FINISH_REASON_END);
  EXPECT_EQ(request.reader.tokens.size(), at + 1);
  EXPECT_EQ(request.reader.text.size(), at);
}

TEST_F(DecodeLoopTest, ASpecialTokenThatIsShownHasTextInWhichNoStopTextEnds) {
  StartLoop();
  Request request;
  Start(request, node_.Prompt(50, 8), kKeepAll,
        {.max_tokens = 3, .forced_tokens = {0, 300, 1}, .stop = {"o"}, .shown_tokens = {300}});
  ASSERT_TRUE(Finish(request));
  EXPECT_EQ(request.reader.text, "aob");
}

TEST_F(DecodeLoopTest, NothingEndsTheOutputBeforeItsLeastTokens) {
  StartLoop();
  const auto prompt = node_.Prompt(50, 8);
  const auto reference = node_.Reference(prompt, kKeepAll, 12);
  Request ended, stopped;
  Start(ended, prompt, kKeepAll,
        {.max_tokens = 12, .min_tokens = 6, .end_tokens = {reference[3], reference[6]}});
  Start(stopped, prompt, kKeepAll,
        {.max_tokens = 12,
         .min_tokens = 6,
         .stop = {std::string(tokenizer_.TokenBytes(reference[3]))}});
  for (Request* request : {&ended, &stopped}) ASSERT_TRUE(Finish(*request));
  // Where the model would have ended it first, it goes on otherwise.
  ASSERT_GE(ended.reader.tokens.size(), 6u);
  EXPECT_THAT(std::span(ended.reader.tokens).first(3),
              ElementsAreArray(std::span(reference).first(3)));
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_NE(ended.reader.tokens[i], reference[3]);
    EXPECT_NE(ended.reader.tokens[i], reference[6]);
  }
  EXPECT_THAT(std::span(stopped.reader.tokens).first(6),
              ElementsAreArray(std::span(reference).first(6)));
}

TEST_F(DecodeLoopTest, StopTextEndsTheOutputBeforeIt) {
  StartLoop();
  const auto prompt = node_.Prompt(50, 9);
  Request whole;
  Start(whole, prompt, kKeepAll, {.max_tokens = 20});
  ASSERT_TRUE(Finish(whole));
  const std::string stop = whole.reader.text.substr(10, 3);
  const size_t at = whole.reader.text.find(stop);

  Request request;
  Start(request, prompt, kKeepAll, {.max_tokens = 20, .stop = {stop}});
  ASSERT_TRUE(Finish(request));
  EXPECT_EQ(request.reader.text, whole.reader.text.substr(0, at));
  EXPECT_EQ(request.end.reason, v1::GenerateReport::FINISH_REASON_STOP);
  EXPECT_EQ(request.end.output_tokens, at + stop.size());
}

TEST_F(DecodeLoopTest, OneTokenNeedsNoStep) {
  StartLoop();
  Request request;
  Start(request, node_.Prompt(40, 12), kKeepAll, {.max_tokens = 1});
  EXPECT_TRUE(request.ended);
  EXPECT_EQ(request.end.output_tokens, 1u);
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

}  // namespace
}  // namespace kvship
