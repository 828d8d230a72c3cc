#include "transport/loopback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/random.h"
#include "tests/transport/recorded_events.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;

constexpr size_t kFrames = 200;

// What arrives of 200 frames of 100 bytes, sent from the serving side.
struct Way {
  explicit Way(const LoopbackNetwork::Faults& faults) : network(faults) {
    channel = network.Open(client, [this](const std::shared_ptr<FrameChannel>& opened) {
      far = opened;
      return server;
    });
    for (uint32_t i = 0; i < kFrames; ++i) {
      auto buffer = std::make_shared<Buffer>(100);
      for (size_t b = 0; b < 100; ++b) buffer->data()[b] = std::byte(RandomBits(i, b));
      far->SendFrame({.sequence = i, .num_bytes = 100, .crc32c = Crc32c(buffer->bytes())},
                     {buffer->bytes(), buffer});
    }
    far->Close(absl::OkStatus());
    end = client->WaitUntilClosed();
  }

  std::shared_ptr<RecordedEvents> client = std::make_shared<RecordedEvents>();
  std::shared_ptr<RecordedEvents> server = std::make_shared<RecordedEvents>();
  LoopbackNetwork network;
  std::shared_ptr<Channel> channel;
  std::shared_ptr<FrameChannel> far;
  absl::Status end;
};

size_t NumBroken(const std::vector<RecordedEvents::Frame>& frames) {
  size_t num_broken = 0;
  for (const auto& frame : frames) {
    num_broken += Crc32c(std::as_bytes(std::span(frame.payload))) != frame.header.crc32c;
  }
  return num_broken;
}

TEST(Loopback, WithoutFaultsAllArrivesInOrder) {
  Way way({});
  EXPECT_EQ(way.end, absl::OkStatus());
  const auto frames = way.client->frames();
  ASSERT_EQ(frames.size(), kFrames);
  EXPECT_EQ(NumBroken(frames), 0u);
  for (uint32_t i = 0; i < kFrames; ++i) EXPECT_EQ(frames[i].header.sequence, i);
}

TEST(Loopback, MessagesGoBothWays) {
  LoopbackNetwork network({});
  auto client = std::make_shared<RecordedEvents>();
  auto server = std::make_shared<RecordedEvents>();
  std::shared_ptr<FrameChannel> far;
  const auto near = network.Open(client, [&](const std::shared_ptr<FrameChannel>& opened) {
    far = opened;
    return server;
  });
  near->SendMessage("begin");
  ASSERT_TRUE(server->WaitForMessages(1));
  far->SendMessage("ready");
  ASSERT_TRUE(client->WaitForMessages(1));
  EXPECT_THAT(server->messages(), ElementsAre("begin"));
  EXPECT_THAT(client->messages(), ElementsAre("ready"));
  near->Close(absl::AbortedError("enough"));
  EXPECT_EQ(server->WaitUntilClosed().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client->WaitUntilClosed(), absl::AbortedError("enough"));
  far->SendMessage("late");
  EXPECT_EQ(far->unsent_bytes(), 4u);
}

TEST(Loopback, AClientsErrorAfterItsOkIsACancellation) {
  LoopbackNetwork network({});
  auto client = std::make_shared<RecordedEvents>();
  auto server = std::make_shared<RecordedEvents>();
  const auto near = network.Open(client, [&](const auto&) { return server; });
  near->Close(absl::OkStatus());
  near->Close(absl::DataLossError("nonsense"));
  EXPECT_TRUE(absl::IsCancelled(server->WaitUntilClosed()));
  EXPECT_TRUE(absl::IsDataLoss(client->WaitUntilClosed()));
}

TEST(Loopback, EachFaultDoesWhatItsNameSays) {
  EXPECT_LT(Way({.drop = 0.5}).client->frames().size(), kFrames);
  EXPECT_GT(Way({.duplicate = 0.5}).client->frames().size(), kFrames);
  EXPECT_GT(NumBroken(Way({.corrupt = 0.5}).client->frames()), kFrames / 4);
  EXPECT_GT(NumBroken(Way({.truncate = 0.5}).client->frames()), kFrames / 4);
  const absl::Time begin = MonotonicNow();
  EXPECT_EQ(Way({.delay = 0.5}).client->frames().size(), kFrames);
  EXPECT_GE(MonotonicNow() - begin, kFrames / 4 * LoopbackNetwork::Faults().delay_time);
  const auto frames = Way({.reorder = 0.5}).client->frames();
  size_t num_backwards = 0;
  for (size_t i = 1; i < frames.size(); ++i) {
    num_backwards += frames[i].header.sequence < frames[i - 1].header.sequence;
  }
  EXPECT_GT(num_backwards, 0u);  // how many depends on who runs when
}

TEST(Loopback, FaultsAreCounted) {
  const Way dropped({.drop = 0.5});
  EXPECT_EQ(dropped.network.fault_counts().dropped, kFrames - dropped.client->frames().size());
  const Way corrupted({.corrupt = 0.5});
  EXPECT_EQ(corrupted.network.fault_counts().corrupted, NumBroken(corrupted.client->frames()));
  const Way duplicated({.duplicate = 0.5});
  EXPECT_EQ(duplicated.network.fault_counts().total(),
            duplicated.client->frames().size() - kFrames);
  EXPECT_EQ(Way({.cut_before_frame = 17}).network.fault_counts().cut, 1u);
}

TEST(Loopback, ACutEndsBothSides) {
  Way way({.cut_before_frame = 17});
  EXPECT_EQ(way.end.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(way.client->frames().size(), 17u);
  EXPECT_EQ(way.server->WaitUntilClosed().code(), absl::StatusCode::kUnavailable);
}

TEST(Loopback, ASeedGivesTheSameFaultsAgain) {
  const LoopbackNetwork::Faults faults = {
      .seed = 9, .drop = 0.1, .corrupt = 0.1, .truncate = 0.1, .duplicate = 0.1};
  std::vector<std::string> runs;
  for (int run = 0; run < 2; ++run) {
    std::string& all = runs.emplace_back();
    for (const auto& frame : Way(faults).client->frames()) {
      all += std::to_string(frame.header.sequence) + frame.payload;
    }
  }
  EXPECT_EQ(runs[0], runs[1]);
}

TEST(Loopback, AChannelThatOutlivesItsNetworkIsClosed) {
  auto client = std::make_shared<RecordedEvents>();
  auto server = std::make_shared<RecordedEvents>();
  auto network = std::make_unique<LoopbackNetwork>(LoopbackNetwork::Faults());
  const auto near = network->Open(client, [&](const auto&) { return server; });
  network.reset();
  near->SendMessage("late");
  near->Close(absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(client->WaitUntilClosed()));
  EXPECT_TRUE(server->messages().empty());
}

TEST(Loopback, WhilePausedWhatIsSentStaysUnsent) {
  LoopbackNetwork network({});
  auto client = std::make_shared<RecordedEvents>();
  auto server = std::make_shared<RecordedEvents>();
  network.Pause(true);
  std::shared_ptr<FrameChannel> far;
  const auto near = network.Open(client, [&](const auto& opened) {
    far = opened;
    return server;
  });
  far->SendMessage("ready");
  EXPECT_EQ(far->unsent_bytes(), 5u);
  network.Pause(false);
  ASSERT_TRUE(client->WaitForMessages(1));
  EXPECT_EQ(far->unsent_bytes(), 0u);
}

}  // namespace
}  // namespace kvship
