// A prefill node's end of a stream over which frames go by NCCL, and what its client may say.
#include "prefill_service/nccl_sender.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "rpc/sealed_message.h"
#include "tests/service/nccl_side.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using v1::NcclAnswer;

class NcclSenderTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kGpu = 0xabc;

  NcclSenderTest() {
    sender_ = NcclSender::Create(*prefill_.service, "decode.example", kGpu, channel_,
                                 [this] { ++num_told_; });
    sender_->Meet({});
    const std::string invitation = channel_->said().at(0).invitation();
    NcclUniqueId id;
    EXPECT_EQ(invitation.size(), id.size());
    std::memcpy(id.data(), invitation.data(), id.size());
    EXPECT_TRUE(decode().Accept("prefill", id).ok());
    EXPECT_TRUE(Becomes([this] { return prefill_.IsReady() && decode_.IsReady(); }));
    sender_->Begin();
  }
  ~NcclSenderTest() override { sender_->OnClosed(absl::OkStatus()); }

  NcclExecutor& decode() { return *decode_.service->endpoint().executor; }

  void SendFrame(uint32_t sequence, size_t num_bytes = kMostFrameBytes) {
    sender_->SendFrame(
        {.sequence = sequence, .num_bytes = static_cast<uint32_t>(num_bytes)},
        {.bytes = std::span<const std::byte>(payload_).first(num_bytes), .owner = nullptr});
  }
  // As before a layer's frames.
  void SendLayerHeader() {
    v1::PrefillResponse response;
    response.mutable_layer()->set_layer(1);
    sender_->SendMessage(Sealed(response));
  }
  // The network takes all that waits for it.
  void TakeAll() {
    channel_->TakeAll();
    sender_->OnSent();
  }
  // A frame by NCCL, 1 MiB in 100 ms or more.
  void MeasureNccl() {
    network_.SetTransferTime(absl::Milliseconds(100));
    SendFrame(0);
    Receive();
    ASSERT_TRUE(Becomes([this] { return prefill_.staging->num_free() == NcclSide::kFrames; }));
    TakeAll();
  }
  // What is unsent, but for what the channel has.
  size_t UnconfirmedBytes() {
    TakeAll();
    return sender_->unsent_bytes();
  }
  absl::Status Answer(uint32_t sequence, NcclAnswer::Outcome outcome) {
    NcclAnswer answer;
    answer.set_sequence(sequence);
    answer.set_outcome(outcome);
    return sender_->OnAnswer(answer);
  }
  // What a client does that takes the frame that was announced last.
  void Receive() {
    Take();
    EXPECT_TRUE(
        Answer(channel_->said().back().frame().frame().sequence(), NcclAnswer::OUTCOME_RECEIVED)
            .ok());
  }
  // And does not confirm it.
  void Take() {
    const double sent = prefill_.Metric("_transfers_total");
    const v1::NcclFrame frame = channel_->said().back().frame();
    std::atomic<bool> done = false;
    ASSERT_TRUE(decode()
                    .Receive("prefill", {frame.communicator(), frame.place()},
                             {.bytes = std::span(received_).first(frame.payload_bytes()),
                              .deadline = MonotonicNow() + kHangs,
                              .on_done = [&done](const absl::Status&) { done = true; }})
                    .ok());
    EXPECT_TRUE(Answer(frame.frame().sequence(), NcclAnswer::OUTCOME_ACCEPTED).ok());
    ASSERT_TRUE(Becomes([&] { return done && prefill_.Metric("_transfers_total") > sent; }));
  }

  // Another request of a client's.
  struct Other {
    std::shared_ptr<NcclTestChannel<v1::NcclNotice>> channel =
        std::make_shared<NcclTestChannel<v1::NcclNotice>>();
    std::shared_ptr<NcclSender> sender = nullptr;
  };
  Other Meet(const std::string& caller, uint64_t gpu, const v1::NcclClient& client) {
    Other other;
    other.sender = NcclSender::Create(*prefill_.service, caller, gpu, other.channel, [] {});
    other.sender->Meet(client);
    return other;
  }

  FakeNccl network_{MonotonicNow};
  // Nothing of what must happen soon happens because a connect has failed.
  NcclSide prefill_{network_, "prefill", kTimeout, /*connect_timeout=*/2 * kHangs};
  NcclSide decode_{network_, "decode"};
  const std::vector<std::byte> payload_ = std::vector<std::byte>(kMostFrameBytes, std::byte{5});
  std::vector<std::byte> received_ = std::vector<std::byte>(kMostFrameBytes);
  const std::shared_ptr<NcclTestChannel<v1::NcclNotice>> channel_ =
      std::make_shared<NcclTestChannel<v1::NcclNotice>>();
  std::atomic<int> num_told_ = 0;
  std::shared_ptr<NcclSender> sender_;
};

TEST_F(NcclSenderTest, AFrameIsUnsentUntilItIsConfirmed) {
  SendFrame(0, 100);
  EXPECT_EQ(UnconfirmedBytes(), 100);
  EXPECT_EQ(num_told_, 0);
  sender_->Close(absl::OkStatus());
  EXPECT_FALSE(channel_->closed().has_value());
  Receive();
  EXPECT_EQ(received_[99], std::byte{5});
  EXPECT_EQ(sender_->unsent_bytes(), 0);
  EXPECT_EQ(num_told_, 1);
  EXPECT_TRUE(channel_->closed().has_value());
  EXPECT_THAT(channel_->frames(), IsEmpty());
}

TEST_F(NcclSenderTest, WhatTheClientRefusesOrLosesGoesOverTheChannel) {
  SendFrame(0);
  EXPECT_TRUE(Answer(0, NcclAnswer::OUTCOME_REFUSED).ok());
  SendFrame(1);
  EXPECT_TRUE(Answer(1, NcclAnswer::OUTCOME_ACCEPTED).ok());
  EXPECT_TRUE(Answer(1, NcclAnswer::OUTCOME_LOST).ok());
  EXPECT_THAT(channel_->frames(), SizeIs(2));
  EXPECT_TRUE(Answer(1, NcclAnswer::OUTCOME_LOST).ok());
  EXPECT_THAT(channel_->frames(), SizeIs(2));
}

TEST_F(NcclSenderTest, AFrameOfTheDeviceStaysThere) {
  auto blocks = sender_->TakeFrames(2);
  ASSERT_THAT(blocks, SizeIs(2));
  const std::byte* const at = blocks[0]->device();
  ASSERT_TRUE(blocks[0]->Upload(payload_).ok());
  sender_->SendStagedFrame({.sequence = 0, .num_bytes = kMostFrameBytes}, std::move(blocks[0]));
  EXPECT_EQ(UnconfirmedBytes(), kMostFrameBytes);
  const auto rest = prefill_.staging->Take(NcclSide::kFrames - 2);
  ASSERT_THAT(rest, SizeIs(NcclSide::kFrames - 2));  // the frame took no other
  Receive();
  EXPECT_EQ(received_, payload_);
  ASSERT_TRUE(Becomes([this] { return prefill_.staging->num_free() > 0; }));
  EXPECT_EQ(prefill_.staging->Take(1).at(0)->device(), at);
  EXPECT_THAT(channel_->frames(), IsEmpty());
}

TEST_F(NcclSenderTest, AFrameOfTheDeviceThatNcclLosesGoesOverTheChannel) {
  auto blocks = sender_->TakeFrames(3);
  ASSERT_THAT(blocks, SizeIs(3));
  for (uint32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(blocks[i]->Upload(std::span(payload_).first(100)).ok());
    sender_->SendStagedFrame({.sequence = i, .num_bytes = 100}, std::move(blocks[i]));
  }
  EXPECT_TRUE(Answer(0, NcclAnswer::OUTCOME_REFUSED).ok());
  // And what is under way when the communicator breaks.
  network_.SetTransferTime(absl::Hours(1));
  EXPECT_TRUE(Answer(1, NcclAnswer::OUTCOME_ACCEPTED).ok());
  NcclAnswer broken;
  broken.set_sequence(2);
  broken.set_outcome(NcclAnswer::OUTCOME_LOST);
  broken.set_broken(decode().CommunicatorOf("prefill"));
  EXPECT_TRUE(sender_->OnAnswer(broken).ok());
  ASSERT_TRUE(Becomes([this] { return channel_->frames().size() == 3; }));
  for (const auto& payload : channel_->payloads()) {
    EXPECT_EQ(payload, std::vector<std::byte>(100, std::byte{5}));
  }
  EXPECT_THAT(sender_->TakeFrames(1), IsEmpty());
}

TEST_F(NcclSenderTest, AFrameThatCannotBeCopiedEndsTheStream) {
  for (uint32_t i = 0; i < 2; ++i) {
    auto block = sender_->TakeFrames(1).at(0);
    sender_->SendStagedFrame({.sequence = i, .num_bytes = 100}, std::move(block));
  }
  prefill_.copies_fail = true;
  EXPECT_TRUE(Answer(0, NcclAnswer::OUTCOME_REFUSED).ok());
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_EQ(channel_->closed()->message(), "the device is lost");
  EXPECT_THAT(channel_->frames(), IsEmpty());
}

TEST_F(NcclSenderTest, AFrameThatCannotBeCopiedStaysUnsent) {
  auto block = sender_->TakeFrames(1).at(0);
  sender_->SendStagedFrame({.sequence = 0, .num_bytes = 100}, std::move(block));
  prefill_.copies_fail = true;
  EXPECT_TRUE(Answer(0, NcclAnswer::OUTCOME_REFUSED).ok());
  EXPECT_EQ(UnconfirmedBytes(), 100);
}

TEST_F(NcclSenderTest, WhatWasNotConfirmedWhenTheStreamEndedStaysUnsent) {
  SendFrame(0, 100);
  sender_->OnClosed(absl::OkStatus());
  EXPECT_EQ(UnconfirmedBytes(), 100);
}

TEST_F(NcclSenderTest, WithoutACommunicatorOrRoomFramesComeFromTheHost) {
  EXPECT_THAT(sender_->TakeFrames(NcclSide::kFrames + 1), IsEmpty());
  decode_.gpu->Die(/*peers_see_it=*/true);
  SendFrame(0);
  EXPECT_TRUE(Answer(0, NcclAnswer::OUTCOME_ACCEPTED).ok());
  ASSERT_TRUE(Becomes([this] { return sender_->TakeFrames(1).empty(); }));
}

TEST_F(NcclSenderTest, AClientCannotConfirmWhatItHasNotAccepted) {
  SendFrame(0);
  const absl::Status status = Answer(0, NcclAnswer::OUTCOME_RECEIVED);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(status.message(), HasSubstr("RECEIVED came for frame 0; wanted ACCEPTED before it"));
}

TEST_F(NcclSenderTest, AfterAnErrorNothingIsSentAnew) {
  SendFrame(0);
  sender_->Close(absl::CancelledError("the peer is gone"));
  SendFrame(1);
  EXPECT_TRUE(Answer(0, NcclAnswer::OUTCOME_REFUSED).ok());
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_THAT(channel_->frames(), SizeIs(1));  // the second, of a closed channel
}

TEST_F(NcclSenderTest, AClientThatNeverAnswersHoldsNoStreamThatAnErrorEnds) {
  SendFrame(0);
  absl::SleepFor(kTimeout);
  sender_->Close(absl::AbortedError("the reader took nothing"));
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_EQ(channel_->closed()->message(), "the reader took nothing");
}

TEST_F(NcclSenderTest, NorDoesOneThatMayStillAnswerWhenTheErrorComes) {
  SendFrame(0);
  sender_->Close(absl::AbortedError("the step failed"));
  EXPECT_FALSE(channel_->closed().has_value());
  ASSERT_TRUE(Becomes([this] { return channel_->closed().has_value(); }));
  EXPECT_EQ(channel_->closed()->message(), "the step failed");
}

TEST_F(NcclSenderTest, NorDoesOneThatConfirmsNothing) {
  SendFrame(0);
  Take();
  SendFrame(1);
  sender_->Close(absl::AbortedError("the step failed"));
  EXPECT_TRUE(Answer(1, NcclAnswer::OUTCOME_REFUSED).ok());
  EXPECT_FALSE(channel_->closed().has_value());
  ASSERT_TRUE(Becomes([this] { return channel_->closed().has_value(); }));
}

TEST_F(NcclSenderTest, FramesGoOverGrpcWhereThatIsFaster) {
  MeasureNccl();
  // gRPC takes 8 MiB at once, while no staging is free.
  auto taken = prefill_.staging->Take(NcclSide::kFrames);
  SendLayerHeader();
  for (uint32_t i = 1; i <= 8; ++i) SendFrame(i);
  TakeAll();
  taken.clear();
  SendFrame(9);
  EXPECT_THAT(channel_->frames(), SizeIs(9));
  EXPECT_EQ(prefill_.Metric("_fallbacks_total", "slower"), 1);
}

// A layer that is short, and long after it one that is not.
TEST_F(NcclSenderTest, TheTimeBetweenLayersIsNoneOfGrpcs) {
  MeasureNccl();
  auto taken = prefill_.staging->Take(NcclSide::kFrames);
  SendLayerHeader();
  SendFrame(1);
  TakeAll();
  absl::SleepFor(absl::Seconds(1));
  SendLayerHeader();
  for (uint32_t i = 2; i <= 5; ++i) SendFrame(i);
  TakeAll();
  taken.clear();
  SendFrame(6);
  EXPECT_EQ(prefill_.Metric("_fallbacks_total", "slower"), 1);
}

TEST_F(NcclSenderTest, GrpcsRateCountsTheTimeUntilTheNetworkHasTakenAll) {
  MeasureNccl();
  auto taken = prefill_.staging->Take(NcclSide::kFrames);
  SendLayerHeader();
  for (uint32_t i = 1; i <= 4; ++i) SendFrame(i);
  sender_->OnSent();
  absl::SleepFor(absl::Seconds(1));
  TakeAll();
  taken.clear();
  SendFrame(5);
  EXPECT_THAT(channel_->frames(), SizeIs(4));
  EXPECT_EQ(prefill_.Metric("_fallbacks_total", "slower"), 0);
}

TEST_F(NcclSenderTest, AClientThatKnowsTheCommunicatorIsNotInvited) {
  v1::NcclClient client;
  client.set_communicator(decode().CommunicatorOf("prefill"));
  const Other next = Meet("decode.example", kGpu, client);
  EXPECT_THAT(next.channel->said(), IsEmpty());
}

// Its Begin was long on the way, or others have overtaken it.
TEST_F(NcclSenderTest, AClientThatWroteBeforeItWasInvitedGetsTheCommunicatorThatThereIs) {
  const uint64_t communicator = decode().CommunicatorOf("prefill");
  const Other late = Meet("decode.example", kGpu, {});
  EXPECT_THAT(late.channel->said(), IsEmpty());
  EXPECT_TRUE(prefill_.IsReady());
  late.sender->Begin();
  late.sender->SendFrame({.sequence = 0, .num_bytes = 100},
                         {.bytes = std::span(payload_).first(100), .owner = nullptr});
  ASSERT_THAT(late.channel->said(), SizeIs(1));
  EXPECT_EQ(late.channel->said()[0].frame().communicator(), communicator);
  late.sender->OnClosed(absl::OkStatus());
}

TEST_F(NcclSenderTest, ABusyClientIsNotInvited) {
  v1::NcclClient client;
  client.set_busy(true);
  const Other other = Meet("decode.example", kGpu + 1, client);
  EXPECT_THAT(other.channel->said(), IsEmpty());
  EXPECT_EQ(prefill_.Snapshot().peers.size(), 1);
}

TEST_F(NcclSenderTest, AnotherCallerCannotTakeAGpusPlace) {
  const Other other = Meet("other.example", kGpu, {});
  EXPECT_THAT(other.channel->said(), SizeIs(1));
  EXPECT_EQ(prefill_.Snapshot().peers.size(), 2);
  EXPECT_EQ(prefill_.Metric("_rebuilds_total"), 0);
}

TEST_F(NcclSenderTest, AClientThatIsGoneBeforeItConnectsHoldsUpNoOthers) {
  const Other gone = Meet("other.example", kGpu, {});
  EXPECT_THAT(sender_->TakeFrames(1), IsEmpty());
  gone.sender->OnClosed(absl::CancelledError("the peer has cancelled the call"));
  ASSERT_TRUE(Becomes([this] { return !sender_->TakeFrames(1).empty(); }));
  EXPECT_EQ(prefill_.Metric("_connect_failures_total"), 1);
}

TEST_F(NcclSenderTest, AClientThatHasItsCacheMayStillConnect) {
  const Other served = Meet("other.example", kGpu, {});
  served.sender->OnClosed(absl::OkStatus());
  absl::SleepFor(absl::Seconds(2));
  EXPECT_EQ(prefill_.Metric("_connect_failures_total"), 0);
}

}  // namespace
}  // namespace kvship
