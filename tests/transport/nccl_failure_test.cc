// What goes wrong between two GPUs, and that every caller gets an answer all the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/transport/nccl_world.h"

namespace kvship {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

class NcclFailureTest : public NcclTest {
 protected:
  // A new process in the place of a decode node that died; its GPU is another to NCCL.
  NcclNode& Restart(const NcclNode& node) { return NewNode(node.name); }
};

TEST_F(NcclFailureTest, APeerGoneBeforeATransferCostsOneOffer) {
  const auto [prefill, decode] = NewPair();
  decode.gpu->Die(false);
  const uint64_t communicator = prefill.executor->ReadyCommunicator("decode").value();
  ASSERT_TRUE(prefill.executor->Offer("decode", communicator, now_ + kDeadline).ok());
  Pass(kDeadline - absl::Milliseconds(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kReady);
  Pass(absl::Milliseconds(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kFailed);
  EXPECT_EQ(prefill.gpu->num_communicators(), 0);

  Pass(absl::Seconds(1));
  NcclNode& again = Restart(decode);
  Connect(prefill, again);
  TestTransfer* transfer = Begin(prefill, again, 10, 1);
  Settle();
  EXPECT_TRUE(Moved(*transfer));
  EXPECT_EQ(prefill.counters().rebuilds, 1);
}

TEST_F(NcclFailureTest, APeerGoneInATransferIsNoticedAtTheDeadline) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Milliseconds(20));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Pass(absl::Milliseconds(10));
  decode.gpu->Die(false);
  Pass(kDeadline - absl::Milliseconds(11));
  EXPECT_FALSE(transfer->sent.has_value());
  Pass(absl::Milliseconds(1));
  EXPECT_TRUE(Failed(transfer->sent));
  EXPECT_THAT(transfer->sent->message(), HasSubstr("transfer 0 under way and not finished"));
  EXPECT_EQ(prefill.gpu->num_aborts(), 1);
  EXPECT_TRUE(prefill.executor->AwaitClosed(absl::ZeroDuration()));

  Pass(absl::Seconds(1));
  NcclNode& again = Restart(decode);
  Connect(prefill, again);
  TestTransfer* next = Begin(prefill, again, 10, 2);
  Settle();
  Pass(absl::Milliseconds(20));
  EXPECT_TRUE(Moved(*next));
}

TEST_F(NcclFailureTest, ASenderGoneInATransferLeavesNoneWaiting) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Milliseconds(20));
  TestTransfer* first = Begin(prefill, decode, 10, 1);
  TestTransfer* second = Begin(prefill, decode, 10, 2);
  Settle();
  prefill.gpu->Die(false);
  Pass(kDeadline);
  EXPECT_TRUE(Failed(first->received));
  EXPECT_TRUE(Failed(second->received));
  EXPECT_EQ(decode.counters().failed_transfers, 2);
}

TEST_F(NcclFailureTest, AnErrorThatNcclSeesIsAnsweredAtOnce) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Milliseconds(20));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  decode.gpu->Die(true);
  Settle();
  EXPECT_TRUE(Failed(transfer->sent));
  EXPECT_THAT(transfer->sent->message(), HasSubstr("remote process exited"));
}

TEST_F(NcclFailureTest, APeerGoneAfterATransferLeavesItsBytes) {
  const auto [prefill, decode] = NewPair();
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  ASSERT_TRUE(Moved(*transfer));
  prefill.gpu->Die(true);
  decode.executor->Break("prefill", transfer->offer.communicator,
                         absl::UnavailableError("the stream broke"));
  Settle();
  EXPECT_THAT(*transfer->target, Each(std::byte{1}));
  EXPECT_EQ(decode.StateOf(prefill), NcclState::kFailed);
  EXPECT_EQ(decode.gpu->num_communicators(), 0);
}

TEST_F(NcclFailureTest, ASlowPeerIsLeftAtTheDeadlineByBothEnds) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(2 * kDeadline);
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  Pass(kDeadline);
  EXPECT_TRUE(Failed(transfer->sent));
  EXPECT_TRUE(Failed(transfer->received));
  Pass(absl::Seconds(1));
  Connect(prefill, decode);
}

TEST_F(NcclFailureTest, ATransferThatWaitsForAnEarlierOneHasItsOwnDeadline) {
  const auto [prefill, decode] = NewPair();
  const uint64_t communicator = prefill.executor->ReadyCommunicator("decode").value();
  TestTransfer transfer{.offer = {communicator, 1}, .source = {}, .target = NewMemory(10, 0)};
  ASSERT_TRUE(
      decode.executor->Receive("prefill", transfer.offer, transfer.Receiving(now_ + kDeadline))
          .ok());
  Pass(kDeadline);
  ASSERT_TRUE(Failed(transfer.received));
  EXPECT_THAT(transfer.received->message(), HasSubstr("transfer 1 still waiting for transfer 0"));
}

TEST_F(NcclFailureTest, BreakAnswersAtOnceAndSparesANewerCommunicator) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Seconds(1));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  const absl::Status why = absl::UnavailableError("the peer has given up");
  prefill.executor->Break("decode", transfer->offer.communicator, why);
  EXPECT_TRUE(Failed(transfer->sent));
  decode.executor->Break("prefill", transfer->offer.communicator, why);
  network_.SetTransferTime(absl::ZeroDuration());
  Pass(absl::Seconds(1));
  Connect(prefill, decode);
  prefill.executor->Break("decode", transfer->offer.communicator, why);
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kReady);
}

TEST_F(NcclFailureTest, ALateWriterFindsTheOldBufferInQuarantine) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Seconds(1));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  decode.aborts_hang = true;
  Pass(kDeadline);
  ASSERT_TRUE(Failed(transfer->received));
  // The caller goes on in fresh memory; the old one is still somebody's.
  const std::weak_ptr<std::vector<std::byte>> old = std::exchange(transfer->target, nullptr);
  const FakeMemory fresh = NewMemory(10, 5);
  EXPECT_FALSE(old.expired());
  EXPECT_EQ(decode.executor->Snapshot().quarantined_bytes, 10);
  decode.RunAborts();
  EXPECT_TRUE(old.expired());
  EXPECT_EQ(decode.executor->Snapshot().quarantined_bytes, 0);
  EXPECT_THAT(*fresh, Each(std::byte{5}));
}

TEST_F(NcclFailureTest, WhatWasNotYetIssuedIsNotQuarantined) {
  const auto [prefill, decode] = NewPair();
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  decode.aborts_hang = true;
  decode.executor->Break("prefill", transfer->offer.communicator, absl::UnavailableError("gone"));
  ASSERT_TRUE(Failed(transfer->received));
  EXPECT_EQ(transfer->target.use_count(), 1);
  EXPECT_EQ(decode.executor->Snapshot().quarantined_bytes, 0);
}

TEST_F(NcclFailureTest, WhileAnAbortHangsEverybodyIsAnswered) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  NcclNode& other = NewNode("other");
  Connect(prefill, decode);
  Connect(prefill, other);
  network_.SetTransferTime(absl::Milliseconds(50));
  TestTransfer* lost = Begin(prefill, decode, 10, 1);
  Settle();
  decode.gpu->Die(false);
  prefill.aborts_hang = true;
  Pass(kDeadline - absl::Milliseconds(10));
  TestTransfer* under_way = Begin(prefill, other, 10, 2);
  Settle();
  const NcclOffer let_in =
      prefill.executor->Offer("other", under_way->offer.communicator, now_ + kDeadline).value();
  Pass(absl::Milliseconds(10));
  EXPECT_TRUE(Failed(lost->sent));

  // What is on the device goes on; nothing begins.
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("other").status()));
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->Invite("third").status()));
  TestTransfer waiting{.offer = let_in, .source = NewMemory(10, 3), .target = NewMemory(10, 0)};
  ASSERT_TRUE(other.executor->Receive("prefill", let_in, waiting.Receiving(now_ + kDeadline)).ok());
  ASSERT_TRUE(
      prefill.executor->Send("other", let_in, waiting.Sending(now_ + absl::Minutes(1))).ok());
  Pass(absl::Milliseconds(50));
  EXPECT_TRUE(Moved(*under_way));
  EXPECT_FALSE(waiting.sent.has_value());
  Pass(kDeadline);
  EXPECT_TRUE(Failed(waiting.received));

  // When the abort returns after all, NCCL is there again.
  prefill.executor->Break("other", let_in.communicator, absl::UnavailableError("told by other"));
  EXPECT_TRUE(Failed(waiting.sent));
  prefill.aborts_hang = false;
  Pass(absl::Seconds(2));
  Connect(prefill, other);
}

TEST_F(NcclFailureTest, ATransferThatWaitedForAnAbortGoesOnAfterIt) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  NcclNode& other = NewNode("other");
  Connect(prefill, decode);
  Connect(prefill, other);
  prefill.aborts_hang = true;
  TestTransfer* transfer = Begin(prefill, other, 10, 3);
  const uint64_t lost = decode.executor->ReadyCommunicator("prefill").value();
  prefill.executor->Break("decode", lost, absl::UnavailableError("the stream broke"));
  Settle();
  EXPECT_FALSE(transfer->sent.has_value());
  prefill.aborts_hang = false;
  Settle();
  EXPECT_TRUE(Moved(*transfer));
}

TEST_F(NcclFailureTest, AStreamThatCannotBeDrainedKeepsItsBuffersForEver) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Seconds(1));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  decode.gpu->SetDrainFault(absl::InternalError("an illegal address"));
  Pass(absl::Minutes(5));
  EXPECT_TRUE(Failed(transfer->received));
  EXPECT_EQ(decode.executor->Snapshot().quarantined_bytes, 10);
  EXPECT_EQ(transfer->target.use_count(), 2);
  EXPECT_TRUE(
      absl::IsUnavailable(decode.executor->Accept("prefill", prefill.gpu->NewUniqueId().value())));
}

TEST_F(NcclFailureTest, APeerThatNeverConnectsIsGivenUp) {
  NcclNode& prefill = NewNode("prefill", {.connect_timeout = absl::Seconds(3)});
  NcclNode& decode = NewNode("decode");
  ASSERT_TRUE(prefill.executor->Invite("decode").ok());
  Pass(absl::Seconds(3) - absl::Milliseconds(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kConnecting);
  Pass(absl::Milliseconds(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kFailed);
  EXPECT_EQ(prefill.counters().connect_failures, 1);
  EXPECT_EQ(prefill.gpu->num_communicators(), 0);
}

TEST_F(NcclFailureTest, APeerThatMayNotKnowOfItsInvitationIsGivenUpSooner) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  const uint64_t invited = NcclCommunicatorNumber(prefill.executor->Invite("decode").value());
  prefill.executor->ConnectBy("decode", invited, now_ + absl::Seconds(1));
  prefill.executor->ConnectBy("decode", invited, now_ + absl::Minutes(1));
  prefill.executor->ConnectBy("decode", invited + 1, now_);
  Pass(absl::Seconds(1) - absl::Milliseconds(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kConnecting);
  Pass(absl::Milliseconds(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kFailed);
}

TEST_F(NcclFailureTest, OneThatKnewConnects) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  const NcclUniqueId id = prefill.executor->Invite("decode").value();
  ASSERT_TRUE(decode.executor->Accept("prefill", id).ok());
  prefill.executor->ConnectBy("decode", NcclCommunicatorNumber(id), now_ + absl::Seconds(1));
  Settle();
  prefill.executor->ConnectBy("decode", NcclCommunicatorNumber(id), now_ + absl::Seconds(1));
  Pass(absl::Minutes(1));
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kReady);
}

TEST_F(NcclFailureTest, AConnectThatTheLibraryRefusesIsAFailure) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  prefill.gpu->SetConnectFault(absl::UnavailableError("no such interface"));
  ASSERT_TRUE(prefill.executor->Invite("decode").ok());
  Settle();
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kFailed);
  EXPECT_TRUE(prefill.executor->AwaitClosed(absl::ZeroDuration()));
}

TEST_F(NcclFailureTest, ARebuildStormIsHeldBack) {
  const auto [prefill, decode] = NewPair();
  prefill.executor->Break("decode", prefill.executor->ReadyCommunicator("decode").value(),
                          absl::UnavailableError("gone"));
  Settle();
  prefill.gpu->SetNeverConnects(true);
  for (int request = 0; request < 6000; ++request) {
    EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("decode").status()));
    (void)prefill.executor->Invite("decode").ok();  // whoever asks may try
    Pass(absl::Milliseconds(100));
  }
  // Five seconds of trying, and between them 1, 2, 4, 8, ...: in ten minutes at 1, 8, 17, 30, 51,
  // 88, 157, 290 and 551 seconds.
  const NcclCounters counters = prefill.counters();
  EXPECT_EQ(counters.rebuilds, 9);
  EXPECT_EQ(prefill.gpu->most_communicators(), 1);
  EXPECT_EQ(counters.refused_not_ready, 6000);

  // A transfer that is done forgives it all.
  prefill.gpu->SetNeverConnects(false);
  Pass(absl::Hours(1));
  NcclNode& again = Restart(decode);
  Connect(prefill, again);
  TestTransfer* transfer = Begin(prefill, again, 10, 1);
  Settle();
  ASSERT_TRUE(Moved(*transfer));
  prefill.executor->Break("decode", transfer->offer.communicator, absl::UnavailableError("gone"));
  Pass(absl::Seconds(1));
  EXPECT_EQ(prefill.StateOf(again), NcclState::kAbsent);
}

TEST_F(NcclFailureTest, ACallThatDoesNotReturnHoldsUpNobodysAnswer) {
  const auto [prefill, decode] = NewPair();
  prefill.gpu->SetStuck(true);
  prefill.gpu->MoveToAnotherThread();
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  std::thread stuck([&sender = prefill] { sender.executor->Advance(); });
  prefill.gpu->AwaitStuck();
  now_ += kDeadline;
  prefill.executor->Watch();
  EXPECT_TRUE(Failed(transfer->sent));
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("decode").status()));
  EXPECT_EQ(prefill.aborts.size(), 0) << "aborted under a call of the same communicator";
  prefill.gpu->SetStuck(false);
  stuck.join();
  EXPECT_EQ(prefill.aborts.size(), 1);
}

}  // namespace
}  // namespace kvship
