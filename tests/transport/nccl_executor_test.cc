#include "transport/nccl_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/transport/nccl_world.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

TEST_F(NcclTest, IsReadyOnlyWhenBothEndsAreWarm) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("decode").status()));
  const auto id = prefill.executor->Invite("decode");
  ASSERT_TRUE(id.ok()) << id.status();
  Settle();
  EXPECT_EQ(prefill.StateOf(decode), NcclState::kConnecting);
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("decode").status()));
  ASSERT_TRUE(decode.executor->Accept("prefill", *id).ok());
  Settle();
  const auto ready = prefill.executor->ReadyCommunicator("decode");
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(*ready, decode.executor->ReadyCommunicator("prefill").value());
  EXPECT_EQ(prefill.counters().refused_not_ready, 2);
}

TEST_F(NcclTest, BothEndsNameTheSameCommunicatorFromTheInvitationOn) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  EXPECT_EQ(prefill.executor->CommunicatorOf("decode"), 0);
  const NcclUniqueId id = prefill.executor->Invite("decode").value();
  ASSERT_TRUE(decode.executor->Accept("prefill", id).ok());
  EXPECT_EQ(prefill.executor->CommunicatorOf("decode"), NcclCommunicatorNumber(id));
  EXPECT_EQ(decode.executor->CommunicatorOf("prefill"), NcclCommunicatorNumber(id));
  decode.executor->Break("prefill", NcclCommunicatorNumber(id), absl::UnavailableError("lost"));
  EXPECT_EQ(decode.executor->CommunicatorOf("prefill"), 0);
}

TEST_F(NcclTest, MovesBytes) {
  const auto [prefill, decode] = NewPair();
  TestTransfer* transfer = Begin(prefill, decode, 1000, 7);
  Settle();
  EXPECT_TRUE(Moved(*transfer));
  EXPECT_EQ(prefill.counters().transfers, 1);
  EXPECT_EQ(decode.counters().transferred_bytes, 1000);
}

TEST_F(NcclTest, IssuesInTheOrderOfTheNumbersWhateverTheOrderOfTheCalls) {
  const auto [prefill, decode] = NewPair();
  const uint64_t communicator = prefill.executor->ReadyCommunicator("decode").value();
  std::vector<TestTransfer> transfers(4);
  for (size_t i = 0; i < transfers.size(); ++i) {
    transfers[i].source = NewMemory(100 + i, static_cast<int>(i));
    transfers[i].target = NewMemory(100 + i, 99);
    transfers[i].offer = prefill.executor->Offer("decode", communicator, now_ + kDeadline).value();
  }
  for (const size_t i : {3, 1, 0, 2}) {
    ASSERT_TRUE(
        decode.executor
            ->Receive("prefill", transfers[i].offer, transfers[i].Receiving(now_ + kDeadline))
            .ok());
    Settle();
  }
  for (const size_t i : {2, 0, 3, 1}) {
    ASSERT_TRUE(
        prefill.executor->Send("decode", transfers[i].offer, transfers[i].Sending(now_ + kDeadline))
            .ok());
    Settle();
  }
  for (const TestTransfer& transfer : transfers) EXPECT_TRUE(Moved(transfer));
}

TEST_F(NcclTest, MoreTransfersThanMarksWaitForTheirTurn) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Milliseconds(1));
  std::vector<TestTransfer*> transfers;
  for (size_t i = 0; i < 2 * kNcclMarks; ++i) {
    transfers.push_back(Begin(prefill, decode, 10, static_cast<int>(i)));
  }
  for (size_t i = 0; i < 2 * kNcclMarks; ++i) Settle();
  EXPECT_FALSE(transfers.front()->sent.has_value());
  for (size_t i = 0; i < 2 * kNcclMarks; ++i) Pass(absl::Milliseconds(1));
  for (const TestTransfer* transfer : transfers) EXPECT_TRUE(Moved(*transfer));
}

TEST_F(NcclTest, ASkippedTransferIsPassedOverOnBothSides) {
  const auto [prefill, decode] = NewPair();
  const uint64_t communicator = prefill.executor->ReadyCommunicator("decode").value();
  const NcclOffer offer = prefill.executor->Offer("decode", communicator, now_ + kDeadline).value();
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  EXPECT_FALSE(transfer->sent.has_value());
  EXPECT_TRUE(decode.executor->Skip("prefill", offer).ok());
  EXPECT_TRUE(prefill.executor->Skip("decode", offer).ok());
  Settle();
  EXPECT_TRUE(Moved(*transfer));
}

TEST_F(NcclTest, ANumberIsUsedOnceAndOnlyOfAnOffer) {
  const auto [prefill, decode] = NewPair();
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  const NcclOffer used = transfer->offer;
  const NcclOffer far = {used.communicator, used.sequence + 100'000};
  for (const NcclOffer& offer : {used, far}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(prefill.executor->Skip("decode", offer)));
    EXPECT_TRUE(absl::IsFailedPrecondition(decode.executor->Receive("prefill", offer, {})));
  }
  const NcclOffer elsewhere = {used.communicator + 1, 1};
  EXPECT_TRUE(absl::IsNotFound(decode.executor->Receive("prefill", elsewhere, {})));
}

TEST_F(NcclTest, APeerCannotFillMemoryWithOffers) {
  const auto [prefill, decode] = NewPair();
  const uint64_t communicator = prefill.executor->ReadyCommunicator("decode").value();
  absl::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    status = prefill.executor->Offer("decode", communicator, now_ + kDeadline).status();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(NcclTest, AConnectWaitsForTransfersAndLetsNoneIn) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  NcclNode& other = NewNode("other");
  Connect(prefill, decode);
  network_.SetTransferTime(absl::Milliseconds(100));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  const auto id = prefill.executor->Invite("other");
  ASSERT_TRUE(id.ok()) << id.status();
  ASSERT_TRUE(other.executor->Accept("prefill", *id).ok());
  Pass(absl::Milliseconds(50));
  EXPECT_EQ(prefill.gpu->num_communicators(), 1);
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("decode").status()));
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->Invite("third").status()));
  Pass(absl::Milliseconds(50));
  EXPECT_TRUE(Moved(*transfer));
  Pass(absl::Milliseconds(100));
  EXPECT_EQ(prefill.StateOf(other), NcclState::kReady);
  EXPECT_TRUE(prefill.executor->ReadyCommunicator("decode").ok());
}

TEST_F(NcclTest, AReceiverThatConnectsRefusesAndPassesOver) {
  NcclNode& prefill = NewNode("prefill");
  NcclNode& decode = NewNode("decode");
  NcclNode& other = NewNode("other");
  Connect(prefill, decode);
  const uint64_t communicator = prefill.executor->ReadyCommunicator("decode").value();
  const NcclOffer offer = prefill.executor->Offer("decode", communicator, now_ + kDeadline).value();
  const auto id = other.executor->Invite("decode");
  ASSERT_TRUE(decode.executor->Accept("other", *id).ok());
  EXPECT_TRUE(absl::IsUnavailable(decode.executor->Receive("prefill", offer, {})));
  EXPECT_TRUE(prefill.executor->Skip("decode", offer).ok());
  Settle();
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  EXPECT_TRUE(Moved(*transfer));
}

TEST_F(NcclTest, TheLeastRecentlyUsedGoesWhenMemoryIsShort) {
  const NcclOptions for_two = {.max_bytes = 250, .communicator_bytes = 100};
  NcclNode& prefill = NewNode("prefill", for_two);
  NcclNode& a = NewNode("a");
  NcclNode& b = NewNode("b");
  NcclNode& c = NewNode("c");
  Connect(prefill, a);
  Connect(prefill, b);
  Pass(absl::Seconds(20));
  Begin(prefill, a, 10, 1);
  Settle();
  Pass(absl::Seconds(9));
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->Invite("c").status()));
  EXPECT_FALSE(prefill.executor->MayConnect("c").ok()) << "both were used in the last 30 s";
  EXPECT_TRUE(prefill.executor->MayConnect("b").ok()) << "whose own place it takes";
  Pass(absl::Seconds(1));
  Connect(prefill, c);
  EXPECT_EQ(prefill.StateOf(a), NcclState::kReady);
  EXPECT_EQ(prefill.StateOf(b), NcclState::kAbsent);
  EXPECT_EQ(prefill.gpu->most_communicators(), 2);
  EXPECT_EQ(prefill.counters().evictions, 1);
  // b has not noticed; the next invitation replaces what it has.
  Pass(absl::Seconds(30));
  Connect(prefill, b);
  EXPECT_EQ(prefill.counters().rebuilds, 1);
  TestTransfer* transfer = Begin(prefill, b, 10, 1);
  Settle();
  EXPECT_TRUE(Moved(*transfer));
}

TEST_F(NcclTest, AnIdThatCouldNotBeSentGoesToTheNextPeer) {
  NcclNode& prefill = NewNode("prefill");
  NewNode("a");
  NewNode("b");
  std::optional<absl::StatusOr<NcclUniqueId>> other;
  prefill.gpu->OnNextUniqueId([&] { other = prefill.executor->Invite("b"); });
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->Invite("a").status()));
  ASSERT_TRUE(other.has_value() && other->ok());
  prefill.executor->Break("b", NcclCommunicatorNumber(**other), absl::CancelledError("refused"));
  Pass(absl::Seconds(1));
  ASSERT_TRUE(prefill.executor->Invite("a").ok());
  EXPECT_EQ(network_.num_unique_ids(), 2);
}

// What a peer says of its communicator may be older than that.
TEST_F(NcclTest, WhoWasInvitedLatelyIsNotInvitedAgain) {
  NcclNode& prefill = NewNode("prefill", {.connect_timeout = absl::Seconds(3)});
  NcclNode& decode = NewNode("decode");
  Connect(prefill, decode);
  Pass(absl::Seconds(3) - absl::Milliseconds(1));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->Invite("decode").status()));
  Settle();
  EXPECT_TRUE(Moved(*transfer));
  Pass(absl::Milliseconds(1));
  EXPECT_TRUE(prefill.executor->Invite("decode").ok());
}

TEST_F(NcclTest, WhoCannotBeReachedIsTriedEverMoreSeldom) {
  NcclNode& prefill = NewNode("prefill");
  absl::Duration last;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(prefill.executor->Invite("nobody").ok());
    Pass(absl::Seconds(5));
    const absl::Time failed = now_;
    while (!prefill.executor->MayConnect("nobody").ok()) Pass(absl::Seconds(1));
    last = now_ - failed;
  }
  EXPECT_EQ(last, absl::Hours(1));
  EXPECT_EQ(prefill.counters().connect_failures, 20);
}

TEST_F(NcclTest, GivesWayToAFasterTransportAndTriesAgain) {
  NcclNode& prefill = NewNode("prefill", {.slow_rest = absl::Seconds(10)});
  NcclNode& decode = NewNode("decode");
  Connect(prefill, decode);
  network_.SetTransferTime(absl::Milliseconds(10));
  TestTransfer* transfer = Begin(prefill, decode, 1 << 20, 1);
  Settle();
  Pass(absl::Milliseconds(10));
  ASSERT_TRUE(Moved(*transfer));
  const double rate = prefill.executor->Snapshot().peers.at(0).bytes_per_second;
  EXPECT_NEAR(rate, (1 << 20) / 0.01, 1);
  prefill.executor->ReportOther("decode", rate / 2);
  EXPECT_TRUE(prefill.executor->ReadyCommunicator("decode").ok());
  prefill.executor->ReportOther("decode", rate * 2);
  EXPECT_TRUE(absl::IsUnavailable(prefill.executor->ReadyCommunicator("decode").status()));
  EXPECT_EQ(prefill.counters().refused_slower, 1);
  EXPECT_TRUE(prefill.executor->Snapshot().peers.at(0).is_slower_than_other);
  Pass(absl::Seconds(10));
  EXPECT_TRUE(prefill.executor->ReadyCommunicator("decode").ok());
}

TEST_F(NcclTest, ShutdownAnswersEverything) {
  const auto [prefill, decode] = NewPair();
  network_.SetTransferTime(absl::Seconds(1));
  TestTransfer* transfer = Begin(prefill, decode, 10, 1);
  Settle();
  prefill.executor->Shutdown(absl::CancelledError("done"));
  ASSERT_TRUE(transfer->sent.has_value());
  EXPECT_TRUE(absl::IsCancelled(*transfer->sent));
  EXPECT_TRUE(absl::IsCancelled(prefill.executor->Invite("decode").status()));
  EXPECT_FALSE(prefill.executor->AwaitClosed(absl::ZeroDuration()));
  prefill.RunAborts();
  EXPECT_TRUE(prefill.executor->AwaitClosed(absl::ZeroDuration()));
}

TEST(NcclOptionsTest, NamesTheFieldThatIsWrong) {
  const auto message = [](const NcclOptions& options) {
    return std::string(options.Validate().message());
  };
  EXPECT_TRUE(NcclOptions().Validate().ok());
  EXPECT_THAT(message({.max_bytes = 99, .communicator_bytes = 100}),
              HasSubstr("communicator_bytes 100: wanted 1 to max_bytes, 99"));
  EXPECT_THAT(message({.connect_timeout = absl::ZeroDuration()}), HasSubstr("connect_timeout 0"));
  EXPECT_THAT(message({.max_backoff = absl::Milliseconds(1)}), HasSubstr("min_backoff 1s"));
}

}  // namespace
}  // namespace kvship
