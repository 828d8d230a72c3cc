#include "decode_service/decode_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <optional>
#include <thread>

#include "absl/time/clock.h"
#include "tests/decode_service/letter_tokenizer.h"
#include "tests/decode_service/tiny_node.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr char kKeepAll[] = "scorer=keep_all";
constexpr char kBudget[] = "budget_tokens=40,window=8,kernel=7";

// Fails every step, or has no memory to draw from its logits.
class BrokenDecoder final : public Decoder {
 public:
  absl::Status CheckPlan(const KvPlan&) const override { return absl::OkStatus(); }
  absl::Status Step(std::span<const Item>) override { return error; }
  std::span<const float> logits(size_t) const override { throw std::bad_alloc(); }
  int32_t drawn(size_t) const override { return 0; }
  absl::Status CheckDevice() override { return device; }

  absl::Status error;
  absl::Status device;
};

// Allows the tokens of a list, each at its place; but the first, which may be any.
class ListMatcher final : public OutputMatcher {
 public:
  explicit ListMatcher(std::vector<int32_t> tokens) : tokens_(std::move(tokens)) {}

  absl::Status Accept(int32_t token) override {
    if (taken_++ == 0 || token == tokens_[taken_ - 1]) return absl::OkStatus();
    return absl::InvalidArgumentError("it is not the next one");
  }
  absl::StatusOr<TokenMask> Allowed() override {
    if (taken_ == tokens_.size()) return absl::InternalError("nothing goes on");
    TokenMask mask(TokenMaskWords(320));
    mask[tokens_[taken_] / 32] |= 1u << tokens_[taken_] % 32;
    return mask;
  }

 private:
  const std::vector<int32_t> tokens_;
  size_t taken_ = 0;
};

class DecodeLoopTest : public ::testing::Test {
 protected:
  // One request in the loop, and how it ended.
  struct Request {
    explicit Request(size_t max_waiting_tokens = 1000) : reader(max_waiting_tokens) {}
    Reader reader;
    std::atomic<bool> ended{false};
    Session::End end;
    size_t reserved_at_end = 0;
  };

  void StartLoop(size_t max_batch_sessions = 32) {
    loop_ = std::make_unique<DecodeLoop>(engine_, backend_.threads(), node_.metrics,
                                         max_batch_sessions);
  }

  void Start(Request& request, const std::vector<int32_t>& prompt, const std::string& compression,
             OutputOptions options, std::unique_ptr<OutputMatcher> matcher = nullptr) {
    TinyNode::Prefilled prefilled = node_.Prefill(prompt, compression, options.max_tokens - 1);
    const OutputToken first =
        options.forced_tokens.empty()
            ? SampleToken(prefilled.logits, options.sampling, 0, options.num_logprobs)
            : ForceToken(prefilled.logits, options.forced_tokens[0], options.num_logprobs);
    auto session = std::make_unique<Session>(
        std::move(options), &tokenizer_, std::move(prefilled.cache), request.reader.responses,
        [this, &request](const Session::End& end) {
          request.end = end;
          request.reserved_at_end = node_.pool->reserved_bytes();
          request.ended = true;
        });
    session->HoldTo(std::move(matcher));
    session->Take(first);
    if (!session->ended()) loop_->Join(std::move(session));
  }

  // What a request is told whose step fails with `error`, or its next token if that is OK.
  absl::Status EndAfter(const absl::Status& error, size_t num_logprobs = 0) {
    broken_.error = error;
    loop_ = std::make_unique<DecodeLoop>(broken_, backend_.threads(), node_.metrics, 1);
    Request request;
    Start(request, node_.Prompt(40, 13), kKeepAll, {.max_tokens = 5, .num_logprobs = num_logprobs});
    return Finish(request) ? request.end.status : absl::OkStatus();
  }

  bool Finish(Request& request) {
    return request.reader.ReadUntil([&] { return request.ended.load(); }) &&
           (request.reader.Take(), true);
  }

  TinyNode node_;
  LetterTokenizer tokenizer_;
  Backend backend_{2};
  DecodeEngine engine_{*node_.model.transformer, backend_, Arithmetic::kFast};
  BrokenDecoder broken_;
  std::unique_ptr<DecodeLoop> loop_;
};

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

TEST_F(DecodeLoopTest, CompanyInTheBatchChangesNothing) {
  StartLoop();
  std::vector<std::unique_ptr<Request>> requests;
  std::vector<std::vector<int32_t>> prompts;
  for (uint64_t i = 0; i < 5; ++i) {
    prompts.push_back(node_.Prompt(40 + 13 * i, i));
    requests.push_back(std::make_unique<Request>());
    Start(*requests.back(), prompts.back(), i % 2 ? kKeepAll : "budget_tokens=32,window=8",
          {.max_tokens = 10 + i, .num_logprobs = i % 3});  // some draw from their logits
  }
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(Finish(*requests[i]));
    EXPECT_THAT(requests[i]->reader.tokens,
                ElementsAreArray(node_.Reference(
                    prompts[i], i % 2 ? kKeepAll : "budget_tokens=32,window=8", 10 + i)));
  }
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(DecodeLoopTest, SessionsBeyondTheBatchTakeTurns) {
  StartLoop(/*max_batch_sessions=*/2);
  std::vector<std::unique_ptr<Request>> requests;
  const auto prompt = node_.Prompt(40, 7);
  for (int i = 0; i < 5; ++i) {
    requests.push_back(std::make_unique<Request>());
    Start(*requests.back(), prompt, kKeepAll, {.max_tokens = 12});
  }
  const auto reference = node_.Reference(prompt, kKeepAll, 12);
  for (auto& request : requests) {
    ASSERT_TRUE(Finish(*request));
    EXPECT_THAT(request->reader.tokens, ElementsAreArray(reference));
  }
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
  StartLoop();
  const absl::Duration kMost = 5 * Heartbeat::kPeriod;
  const absl::Duration kMore = kMost + Heartbeat::kPeriod;
  absl::SleepFor(kMore);
  EXPECT_EQ(loop_->CheckProgress(kMost), absl::OkStatus()) << "who has nothing to do is not stuck";

  Request request;
  std::promise<void> release;
  const auto released = release.get_future().share();
  // The loop hands out tokens in the middle of a step; the first one comes from this thread.
  request.reader.responses->OnResponse([released, here = std::this_thread::get_id()] {
    if (std::this_thread::get_id() != here) released.wait();
  });
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
  for (int i = 0; i < 500 && loop_->CheckProgress(absl::Hours(1)).ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(absl::IsInternal(loop_->CheckProgress(absl::Hours(1))));
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

TEST_F(DecodeLoopTest, DrawsDependOnSeedAndIndexAlone) {
  StartLoop();
  const auto prompt = node_.Prompt(50, 10);
  const OutputOptions options = {.sampling = {.temperature = 1.5, .seed = 11}, .max_tokens = 15};
  Request alone;
  Start(alone, prompt, kKeepAll, options);
  ASSERT_TRUE(Finish(alone));
  Request other;
  Request together;
  Start(other, node_.Prompt(30, 11), kKeepAll,
        {.sampling = {.temperature = 1, .seed = 12}, .max_tokens = 40});
  Start(together, prompt, kKeepAll, options);
  ASSERT_TRUE(Finish(together));
  ASSERT_TRUE(Finish(other));
  EXPECT_THAT(together.reader.tokens, ElementsAreArray(alone.reader.tokens));
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
