// What a decode node thinks of one prefill node.
#include "decode_service/prefill_node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/errors.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using Standing = PrefillNode::Standing;

const absl::Status kLost = absl::UnavailableError("connection reset");

class PrefillNodeTest : public ::testing::Test {
 protected:
  // These two: whether it is news.
  bool Answer(uint64_t prompt_tokens = 0, bool draining = false, uint64_t own_tokens = 0) {
    v1::PrefillLoad load;
    load.set_prompt_tokens(prompt_tokens);
    load.set_draining(draining);
    return node_.NoteCheck(absl::OkStatus(), load, own_tokens, now_);
  }
  bool CheckFails(const absl::Status& status) { return node_.NoteCheck(status, {}, 0, now_); }
  // One prompt, from begin to end at once; whether its outcome ejects the node.
  bool Serve(const absl::Status& outcome) {
    node_.NoteBegin(10);
    return node_.NoteEnd(10, now_, outcome, now_);
  }
  absl::Duration ejected_for() const { return node_.state(now_).ejected_for; }
  Standing standing() const { return node_.standing(now_); }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  PrefillNode node_{"127.0.0.1:1", {}};
};

TEST_F(PrefillNodeTest, IsSilentUntilItHasAnswered) {
  EXPECT_EQ(standing(), Standing::kSilent);
  EXPECT_THAT(node_.state(now_).health, HasSubstr("not answered yet"));
  Answer();
  EXPECT_EQ(standing(), Standing::kServing);
  EXPECT_TRUE(node_.state(now_).serving);
  CheckFails(absl::UnavailableError("no answer"));
  EXPECT_EQ(standing(), Standing::kSilent);
  EXPECT_EQ(node_.state(now_).health, "no answer");
}

TEST_F(PrefillNodeTest, ItsOwnWordThatItCannotServeIsNoSilence) {
  CheckFails(WithReason(absl::UnavailableError("the engine is stuck"), kNotReady));
  EXPECT_EQ(standing(), Standing::kUnfit);
  CheckFails(WithReason(absl::FailedPreconditionError("another model"), kModelMismatch));
  EXPECT_EQ(standing(), Standing::kUnfit);
  for (const absl::Status& refusal :
       {absl::PermissionDeniedError("not you"), absl::UnauthenticatedError("who are you"),
        absl::UnimplementedError("it is no prefill node")}) {
    CheckFails(refusal);
    EXPECT_EQ(standing(), Standing::kUnfit) << refusal;
  }
  Answer();
  EXPECT_EQ(standing(), Standing::kServing);
}

TEST_F(PrefillNodeTest, ACheckThatGrpcBreaksIsASilence) {
  for (const absl::Status& broken :
       {absl::InternalError("RST_STREAM"), absl::UnknownError("Stream removed"),
        absl::CancelledError("")}) {
    Answer();
    CheckFails(broken);
    EXPECT_EQ(standing(), Standing::kSilent) << broken;
  }
}

TEST_F(PrefillNodeTest, WhatFailsWhereItSaysThatItCannotServeDoesNotEjectIt) {
  Answer();
  node_.NoteBegin(10);
  CheckFails(WithReason(absl::UnavailableError("the engine is stuck"), kNotReady));
  EXPECT_FALSE(node_.NoteEnd(10, now_, absl::UnavailableError("the engine is stuck"), now_));
  Answer();
  EXPECT_EQ(standing(), Standing::kServing);
}

TEST_F(PrefillNodeTest, EachChangeOfWhatIsWrongIsNewsOnce) {
  const absl::Status refused = absl::PermissionDeniedError("not you");
  const absl::Status other =
      WithReason(absl::FailedPreconditionError("another model"), kModelMismatch);
  const auto stuck = [](const char* message) {
    return WithReason(absl::UnavailableError(message), kNotReady);
  };
  EXPECT_TRUE(CheckFails(other)) << "from the start";
  EXPECT_FALSE(CheckFails(other));
  EXPECT_TRUE(CheckFails(refused));
  EXPECT_TRUE(Answer());
  EXPECT_FALSE(Answer());
  EXPECT_TRUE(Answer(0, /*draining=*/true));
  EXPECT_TRUE(CheckFails(stuck("one step for 61 s")));
  EXPECT_FALSE(CheckFails(stuck("one step for 62 s")));
  EXPECT_TRUE(CheckFails(kLost));
  EXPECT_FALSE(CheckFails(absl::UnavailableError("no answer")));
}

TEST_F(PrefillNodeTest, ADrainThatAPromptMetIsNews) {
  Answer();
  Serve(WithReason(absl::UnavailableError("shutting down"), kDraining));
  EXPECT_TRUE(Answer(0, /*draining=*/true));
}

TEST_F(PrefillNodeTest, AnEjectionIsToldByItselfAndItsEndIsNews) {
  Answer();
  ASSERT_TRUE(Serve(kLost));
  EXPECT_FALSE(Answer());
  now_ += absl::Seconds(1);
  EXPECT_TRUE(Answer());
  EXPECT_FALSE(Answer());
}

TEST_F(PrefillNodeTest, LoadIsThatOfOthersByItsWordAndOursNow) {
  node_.NoteBegin(300);
  // Of 1000 tokens that it told, 300 were ours.
  Answer(1000, false, /*own_tokens=*/300);
  EXPECT_EQ(node_.load_tokens(), 1000u);
  node_.NoteBegin(50);
  EXPECT_EQ(node_.load_tokens(), 1050u);
  node_.NoteEnd(300, now_, absl::OkStatus(), now_);
  EXPECT_EQ(node_.load_tokens(), 750u);
  // What we have just sent may not have arrived.
  Answer(20, false, /*own_tokens=*/50);
  EXPECT_EQ(node_.load_tokens(), 50u);
}

TEST_F(PrefillNodeTest, DrainingIsToldByChecksAndByRefusals) {
  Answer(0, /*draining=*/true);
  EXPECT_EQ(standing(), Standing::kDraining);
  Answer();
  EXPECT_FALSE(Serve(WithReason(absl::UnavailableError("shutting down"), kDraining)));
  EXPECT_EQ(standing(), Standing::kDraining);
  EXPECT_EQ(ejected_for(), absl::ZeroDuration());
}

TEST_F(PrefillNodeTest, EjectionGrowsWithFailuresInARowAndIsBounded) {
  Answer();
  double longest_s = 1;
  for (int i = 0; i < 12; ++i) {
    EXPECT_TRUE(Serve(i % 2 == 0 ? kLost : absl::DataLossError("broken cache")));
    EXPECT_EQ(standing(), Standing::kEjected);
    EXPECT_THAT(absl::ToDoubleSeconds(ejected_for()), AllOf(Ge(longest_s / 2), Le(longest_s)));
    Answer();  // alone does not help
    EXPECT_EQ(standing(), Standing::kEjected);
    now_ += ejected_for();
    longest_s = std::min(30.0, 2 * longest_s);
  }
  EXPECT_THAT(node_.state(now_).health, "serving");
  EXPECT_FALSE(Serve(absl::OkStatus()));
  EXPECT_TRUE(Serve(kLost));
  EXPECT_LE(ejected_for(), absl::Seconds(1)) << "a success has forgiven what was before";
}

TEST_F(PrefillNodeTest, EjectionsAreJittered) {
  std::set<absl::Duration> durations;
  for (int i = 0; i < 20; ++i) {
    PrefillNode node("127.0.0.1:1", {});
    node.NoteBegin(10);
    node.NoteEnd(10, now_, kLost, now_);
    durations.insert(node.state(now_).ejected_for);
  }
  EXPECT_GT(durations.size(), 10u);
}

TEST_F(PrefillNodeTest, PromptsThatFailTogetherAreOneFailure) {
  Answer();
  for (int i = 0; i < 10; ++i) node_.NoteBegin(10);
  const absl::Time begun = now_;
  now_ += absl::Seconds(3);
  EXPECT_TRUE(node_.NoteEnd(10, begun, kLost, now_));
  for (int i = 1; i < 10; ++i) {
    now_ += absl::Seconds(1);
    EXPECT_FALSE(node_.NoteEnd(10, begun, kLost, now_));
  }
  EXPECT_EQ(ejected_for(), absl::ZeroDuration());
}

TEST_F(PrefillNodeTest, AfterItsTimeOnePromptProbesIt) {
  Answer();
  Serve(kLost);
  now_ += absl::Seconds(1);
  EXPECT_EQ(standing(), Standing::kServing);
  node_.NoteBegin(10);
  EXPECT_EQ(standing(), Standing::kEjected) << "a second prompt, while the first probes";
  node_.NoteEnd(10, now_, absl::OkStatus(), now_);
  EXPECT_EQ(standing(), Standing::kServing);
  node_.NoteBegin(10);
  EXPECT_EQ(standing(), Standing::kServing);
}

TEST_F(PrefillNodeTest, WhoAnswersAfterASilenceNeedNotWait) {
  Answer();
  for (int i = 0; i < 5; ++i) {
    Serve(kLost);
    now_ += ejected_for();
  }
  Serve(kLost);
  CheckFails(kLost);
  EXPECT_EQ(standing(), Standing::kSilent);
  EXPECT_GT(ejected_for(), absl::Seconds(10));
  Answer();
  EXPECT_EQ(standing(), Standing::kServing);
  EXPECT_EQ(ejected_for(), absl::ZeroDuration());
}

TEST_F(PrefillNodeTest, WhatIsNotItsFaultDoesNotEjectIt) {
  Answer();
  for (const absl::Status& outcome :
       {absl::ResourceExhaustedError("queue full"), absl::CancelledError("the client has gone"),
        absl::DeadlineExceededError("too late"), absl::AbortedError("Go did not come"),
        absl::InvalidArgumentError("a wrong field")}) {
    EXPECT_FALSE(Serve(outcome));
    EXPECT_EQ(standing(), Standing::kServing) << outcome;
  }
}

}  // namespace
}  // namespace kvship
