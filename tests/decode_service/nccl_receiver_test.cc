// What a prefill node may say of NCCL, right and wrong, and the order in which a decode node's
// attempt hears of it.
#include "decode_service/nccl_receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "base/crc32c.h"
#include "rpc/sealed_message.h"
#include "tests/service/nccl_side.h"
#include "tests/transport/recorded_events.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class NcclReceiverTest : public ::testing::Test {
 protected:
  static constexpr size_t kMostBytes = 1000;

  NcclReceiverTest() {
    receiver_->Open([this](const std::shared_ptr<ChannelEvents>&) { return channel_; }, events_);
    const NcclUniqueId id = prefill().Invite("decode").value();
    v1::NcclNotice notice;
    notice.set_invitation(id.data(), id.size());
    Tell(notice);
    EXPECT_TRUE(Becomes([this] { return prefill_.IsReady() && decode_.IsReady(); }));
    communicator_ = NcclCommunicatorNumber(id);
  }
  ~NcclReceiverTest() override {
    if (events_->closed().empty()) receiver_->OnClosed(absl::OkStatus());
  }

  NcclExecutor& prefill() { return *prefill_.service->endpoint().executor; }

  void Tell(const v1::NcclNotice& notice) {
    v1::PrefillResponse response;
    *response.mutable_nccl() = notice;
    Say(Sealed(response));
  }
  void Say(const std::string& message) { receiver_->OnMessage(std::as_bytes(std::span(message))); }
  // By NCCL.
  void Send(const NcclOffer& offer, std::string bytes) {
    const auto owner = std::make_shared<std::string>(std::move(bytes));
    ASSERT_TRUE(prefill()
                    .Send("decode", offer,
                          {.bytes = std::as_writable_bytes(std::span(*owner)),
                           .owner = owner,
                           .deadline = MonotonicNow() + kTimeout,
                           .on_done = [](const absl::Status&) {}})
                    .ok());
  }
  // Over the channel.
  void SendFrame(uint32_t sequence, const std::string& payload) {
    const std::span<const std::byte> piece = std::as_bytes(std::span(payload));
    receiver_->OnFrame({.sequence = sequence, .num_bytes = static_cast<uint32_t>(piece.size())},
                       {&piece, 1});
  }

  // An announcement that is right.
  v1::NcclNotice Announcement(uint32_t sequence, const std::string& payload, uint64_t place) const {
    v1::NcclNotice notice;
    v1::NcclFrame& frame = *notice.mutable_frame();
    frame.mutable_frame()->set_sequence(sequence);
    frame.mutable_frame()->set_checksum_kind(v1::CHECKSUM_CRC32C);
    frame.mutable_frame()->set_checksum(Crc32c(std::as_bytes(std::span(payload))));
    frame.set_payload_bytes(static_cast<uint32_t>(payload.size()));
    frame.set_communicator(communicator_);
    frame.set_place(place);
    return notice;
  }

  FakeNccl network_{MonotonicNow};
  NcclSide prefill_{network_, "prefill"};
  NcclSide decode_{network_, "decode"};
  const std::shared_ptr<NcclTestChannel<v1::NcclAnswer>> channel_ =
      std::make_shared<NcclTestChannel<v1::NcclAnswer>>();
  const std::shared_ptr<RecordedEvents> events_ = std::make_shared<RecordedEvents>();
  const std::shared_ptr<NcclReceiver> receiver_ =
      std::make_shared<NcclReceiver>(*decode_.service, "prefill", kMostBytes);
  uint64_t communicator_ = 0;
};

// Of a node that does not wait for Begin.
TEST_F(NcclReceiverTest, WhatIsSaidBeforeTheStreamIsOpenHarmsNothing) {
  const auto events = std::make_shared<RecordedEvents>();
  const auto receiver =
      std::make_shared<NcclReceiver>(*decode_.service, "prefill", /*most_bytes=*/10);
  const auto channel = receiver->Open(
      [&](const std::shared_ptr<ChannelEvents>& opened) {
        v1::PrefillResponse response;
        response.mutable_nccl()->set_invitation("short");
        const std::string message = Sealed(response);
        opened->OnMessage(std::as_bytes(std::span(message)));
        const std::string payload(kMostFrameBytes + 11, 'x');
        const std::span<const std::byte> piece = std::as_bytes(std::span(payload));
        opened->OnFrame({.num_bytes = static_cast<uint32_t>(piece.size())}, {&piece, 1});
        return channel_;
      },
      events);
  EXPECT_EQ(channel, receiver);
  EXPECT_THAT(channel_->said(), IsEmpty());
  EXPECT_THAT(events->frames(), SizeIs(1));
  receiver->OnClosed(absl::OkStatus());
  EXPECT_THAT(events->closed(), SizeIs(1));
}

TEST_F(NcclReceiverTest, WhatWasSentBehindAFrameWaitsForIt) {
  const auto offer = prefill().Offer("decode", communicator_, MonotonicNow() + kTimeout).value();
  Say("before");
  Tell(Announcement(0, "bytes", offer.sequence));
  Say("behind");
  SendFrame(1, "more");
  EXPECT_THAT(events_->messages(), ElementsAre("before"));
  EXPECT_THAT(events_->frames(), IsEmpty());

  ASSERT_THAT(channel_->said(), SizeIs(1));
  EXPECT_EQ(channel_->said()[0].outcome(), v1::NcclAnswer::OUTCOME_ACCEPTED);
  Send(offer, "bytes");
  ASSERT_TRUE(events_->WaitForFrames(2) && events_->WaitForMessages(2));
  EXPECT_EQ(events_->frames()[0].payload, "bytes");
  EXPECT_EQ(events_->frames()[1].payload, "more");
  EXPECT_EQ(channel_->said()[1].outcome(), v1::NcclAnswer::OUTCOME_RECEIVED);
  EXPECT_EQ(receiver_->transport(), "nccl,grpc");
}

// Who is handed the last of a cache closes the channel, and then nothing can be confirmed any more.
TEST_F(NcclReceiverTest, AFrameIsConfirmedBeforeItIsHandedOn) {
  std::atomic<bool> confirms = false, was_handed_on = false;
  channel_->before_said = [&](const v1::NcclAnswer& answer) {
    if (answer.outcome() != v1::NcclAnswer::OUTCOME_RECEIVED) return;
    confirms = true;
    absl::SleepFor(absl::Milliseconds(100));  // the other thread's chance
    was_handed_on = !events_->frames().empty();
  };
  const auto offer = prefill().Offer("decode", communicator_, MonotonicNow() + kTimeout).value();
  Tell(Announcement(0, "bytes", offer.sequence));
  Send(offer, "bytes");
  ASSERT_TRUE(Becomes([&] { return confirms.load(); }));
  Say("behind");
  ASSERT_TRUE(Becomes([&] { return channel_->said().size() == 2; }));
  ASSERT_TRUE(events_->WaitForFrames(1) && events_->WaitForMessages(1));
  EXPECT_FALSE(was_handed_on);
}

TEST_F(NcclReceiverTest, ARefusedFrameTakesItsPlaceWhenItComesOverTheChannel) {
  v1::NcclNotice unknown = Announcement(0, "bytes", 0);
  unknown.mutable_frame()->set_communicator(communicator_ + 1);
  Tell(unknown);
  Say("behind");
  ASSERT_THAT(channel_->said(), SizeIs(1));
  EXPECT_EQ(channel_->said()[0].outcome(), v1::NcclAnswer::OUTCOME_REFUSED);
  EXPECT_EQ(channel_->said()[0].broken(), communicator_ + 1);
  EXPECT_THAT(events_->messages(), IsEmpty());
  SendFrame(0, "bytes");
  EXPECT_THAT(events_->frames(), SizeIs(1));
  EXPECT_THAT(events_->messages(), ElementsAre("behind"));
}

TEST_F(NcclReceiverTest, AnnouncementsThatCannotBeEndTheStream) {
  v1::NcclNotice empty = Announcement(0, "", 0);
  Tell(empty);
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_TRUE(absl::IsDataLoss(*channel_->closed()));
  EXPECT_THAT(channel_->closed()->message(), HasSubstr("nccl.frame 0 has 0 bytes; wanted 1 to"));
}

TEST_F(NcclReceiverTest, AFrameIsAnnouncedOnce) {
  Tell(Announcement(3, "bytes", 0));
  Tell(Announcement(3, "bytes", 1));
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_THAT(channel_->closed()->message(), HasSubstr("nccl.frame 3 came a second time"));
}

TEST_F(NcclReceiverTest, AnInvitationHasTheLengthOfAUniqueId) {
  v1::NcclNotice notice;
  notice.set_invitation("short");
  Tell(notice);
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_THAT(channel_->closed()->message(), HasSubstr("has 5 bytes; wanted 128"));
}

TEST_F(NcclReceiverTest, NoMoreFramesWaitThanACacheHas) {
  Tell(Announcement(0, "bytes", 0));
  const std::string frame(kMostFrameBytes, 'x');
  SendFrame(1, frame);
  EXPECT_FALSE(channel_->closed().has_value());
  SendFrame(2, frame);
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_TRUE(absl::IsDataLoss(*channel_->closed()));
}

TEST_F(NcclReceiverTest, NorDoMessages) {
  const std::string message(kMostFrameBytes / 4, 'x');
  for (uint32_t i = 0; i < 10; ++i) {
    Tell(Announcement(i, "bytes", i));
    Say(message);
    SendFrame(i, "bytes");
  }
  EXPECT_TRUE(events_->WaitForMessages(10));
  Tell(Announcement(10, "bytes", 10));
  for (int i = 0; i < 3; ++i) Say(message);
  EXPECT_FALSE(channel_->closed().has_value());
  Say(message);
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_TRUE(absl::IsDataLoss(*channel_->closed()));
}

TEST_F(NcclReceiverTest, NorDoAnnouncements) {
  for (uint32_t i = 0; i < 1000; ++i) Tell(Announcement(i, "bytes", i));
  EXPECT_FALSE(channel_->closed().has_value());
  for (uint32_t i = 1000; i < 10000; ++i) Tell(Announcement(i, "bytes", i));
  ASSERT_TRUE(channel_->closed().has_value());
  EXPECT_TRUE(absl::IsDataLoss(*channel_->closed()));
}

TEST_F(NcclReceiverTest, ANoticeWithoutAnIntactSealIsTheAttemptsToJudge) {
  v1::PrefillResponse response;
  *response.mutable_nccl() = Announcement(0, "bytes", 0);
  Say(response.SerializeAsString());
  EXPECT_THAT(channel_->said(), IsEmpty());
  EXPECT_THAT(events_->messages(), SizeIs(1));
}

TEST_F(NcclReceiverTest, TheEndComesLastAndOnceThoughBytesAreMissing) {
  Tell(Announcement(0, "bytes", 0));
  Say("behind");
  receiver_->OnClosed(absl::UnavailableError("the node is gone"));
  EXPECT_THAT(events_->messages(), IsEmpty());
  EXPECT_THAT(events_->closed(), SizeIs(1));
}

}  // namespace
}  // namespace kvship
