// A prompt that has been read is not served before its cache has been sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "service/metric_values.h"
#include "tests/eventually.h"
#include "tests/prefill_service/prefill_node.h"
#include "tests/prefill_service/reader_over.h"
#include "tests/prefill_service/stalled_client.h"
#include "tests/transport/recorded_events.h"
#include "transport/loopback.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

using State = PrefillScheduler::Prompt::State;

// Whole caches of 33 MB, many times what the network takes of them unread.
class PrefillSendingTest : public testing::Test {
 protected:
  static constexpr size_t kPromptTokens = 2048;

  // A node whose requests may run to their end while nobody reads.
  void StartNode(PrefillScheduler::Options options = {}) {
    options.max_outbox_bytes = size_t{1} << 30;
    node_.emplace(options, 32, 256);
  }

  v1::PrefillBegin Begin(size_t num_tokens = kPromptTokens) const {
    return node_->Begin(RandomTokens(num_tokens, 1), "scorer=keep_all,encoder=f32");
  }

  double Gauge(const std::string& name) const { return node_->Metric("kvship_prefill_" + name); }

  // Whether so many have been read and not sent soon.
  bool AreSending(size_t wanted) const {
    return node_->Becomes("kvship_prefill_sending_requests", static_cast<double>(wanted),
                          absl::Seconds(60));
  }

  // How many requests have ended, by their codes.
  std::map<std::string, double> Ended() const {
    auto ended = MetricValues(node_->registry).By("kvship_prefill_requests_total", "code");
    std::erase_if(ended, [](const auto& code) { return code.second == 0; });
    return ended;
  }

  std::optional<PrefillNode> node_;
};

TEST_F(PrefillSendingTest, ARequestIsServedWhenItsCacheHasBeenSent) {
  StartNode();
  const v1::PrefillBegin begin = Begin();
  StalledClient client(node_->target(), begin);
  ASSERT_TRUE(AreSending(1));
  EXPECT_THAT(Ended(), IsEmpty());
  EXPECT_EQ(Gauge("active_requests"), 0);
  EXPECT_EQ(Gauge("queue_tokens"), 0);
  EXPECT_EQ(node_->scheduler.admitted_tokens(), 0u);
  EXPECT_GT(Gauge("outbox_bytes"), begin.plan().wire_bytes() / 2);
  const std::vector<PrefillScheduler::Prompt> prompts = node_->scheduler.Prompts();
  ASSERT_EQ(prompts.size(), 1u);
  EXPECT_EQ(prompts[0].state, State::kSending);
  EXPECT_EQ(prompts[0].fraction, 1);
  const auto [num_bytes, status] = client.ReadAll();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(num_bytes, begin.plan().wire_bytes());
  // Counted before the client can know.
  EXPECT_THAT(Ended(), ElementsAre(Pair("OK", 1)));
  EXPECT_EQ(Gauge("sending_requests"), 0);
  EXPECT_EQ(Gauge("outbox_bytes"), 0);
}

TEST_F(PrefillSendingTest, OneWhoseReaderGoesIsNotServed) {
  StartNode();
  {
    const StalledClient client(node_->target(), Begin());
    ASSERT_TRUE(AreSending(1));
  }
  EXPECT_TRUE(AreSending(0));
  EXPECT_THAT(Ended(), ElementsAre(Pair("CANCELLED", 1)));
}

TEST_F(PrefillSendingTest, AReaderThatTakesNothingIsGivenUp) {
  StartNode({.stall_timeout = absl::Seconds(1)});
  StalledClient client(node_->target(), Begin());
  ASSERT_TRUE(AreSending(1));
  EXPECT_TRUE(AreSending(0));
  EXPECT_EQ(client.ReadAll().second.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(Ended(), ElementsAre(Pair("ABORTED", 1)));
}

TEST_F(PrefillSendingTest, CachesThatWaitForTheirReadersAreBounded) {
  StartNode({.max_queue_requests = 2});
  const StalledClient first(node_->target(), Begin());
  const StalledClient second(node_->target(), Begin());
  ASSERT_TRUE(AreSending(2));
  const auto third = CollectedCall::Start(*node_, Begin(8), {});
  EXPECT_EQ(third->WaitUntilClosed().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(PrefillSendingTest, OthersAreReadMeanwhile) {
  StartNode({.max_queue_requests = 2, .max_active_requests = 1});
  const StalledClient stalled(node_->target(), Begin());
  ASSERT_TRUE(AreSending(1));
  const auto other = CollectedCall::Start(*node_, Begin(100), {});
  EXPECT_EQ(other->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(other->First(v1::PrefillResponse::kQueued).queued().place(), 0u);
  EXPECT_THAT(Ended(), ElementsAre(Pair("OK", 1)));
  EXPECT_EQ(Gauge("sending_requests"), 1);
}

TEST_F(PrefillSendingTest, WhileTooMuchIsUnsentNoPromptBeginsToBeRead) {
  StartNode({.max_unsent_bytes = 1 << 20});
  StalledClient stalled(node_->target(), Begin());
  ASSERT_TRUE(AreSending(1)) << "its own run goes on";
  const auto other = CollectedCall::Start(*node_, Begin(100), {});
  ASSERT_TRUE(other->WaitFor(v1::PrefillResponse::kQueued));
  EXPECT_FALSE(other->WaitFor(v1::PrefillResponse::kReady, absl::Seconds(1)));
  EXPECT_TRUE(stalled.ReadAll().second.ok());
  EXPECT_EQ(other->WaitUntilClosed(), absl::OkStatus());
}

TEST_F(PrefillSendingTest, AReaderThatTakesNothingKeepsOthersOutNoLongerThanItIsGivenUp) {
  StartNode({.max_unsent_bytes = 1 << 20, .stall_timeout = absl::Seconds(1)});
  const StalledClient stalled(node_->target(), Begin());
  ASSERT_TRUE(AreSending(1));
  EXPECT_EQ(CollectedCall::Start(*node_, Begin(100), {})->WaitUntilClosed(), absl::OkStatus());
}

TEST_F(PrefillSendingTest, WhatIsBeingSentKeepsNoLongPromptOut) {
  StartNode({.max_queue_tokens = 50});
  const StalledClient stalled(node_->target(), Begin());
  ASSERT_TRUE(AreSending(1));
  EXPECT_EQ(CollectedCall::Start(*node_, Begin(100), {})->WaitUntilClosed(), absl::OkStatus());
}

// The node's reader, which lets the test act when all is computed and the last layer is not sent.
class WatchedReader final : public ReaderOver {
 public:
  WatchedReader(PromptReader& reader, std::function<void()> on_computed)
      : ReaderOver(reader), on_computed_(std::move(on_computed)) {}

  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    return std::make_unique<Reading>(*this, *ReaderOver::Begin(tasks));
  }

 private:
  struct Reading final : ReadingOver {
    Reading(const WatchedReader& watched, std::unique_ptr<PromptReading> read)
        : ReadingOver(std::move(read)), of(watched) {}
    absl::StatusOr<Event> Step() override {
      const absl::StatusOr<Event> event = ReadingOver::Step();
      if (done()) of.on_computed_();
      return event;
    }

    const WatchedReader& of;
  };

  const std::function<void()> on_computed_;
};

TEST_F(PrefillSendingTest, OneWhoseReaderGoesBeforeTheLastLayerIsNotServed) {
  StartNode();
  LoopbackNetwork network({});
  std::shared_ptr<FrameChannel> channel;
  const auto events = std::make_shared<RecordedEvents>();
  const auto client = network.Open(std::make_shared<RecordedEvents>(), [&](const auto& opened) {
    channel = opened;
    return events;
  });
  std::shared_ptr<PrefillScheduler::Request> request;
  std::function<void()> on_computed;
  WatchedReader reader(node_->reader, [&] { on_computed(); });
  PrefillScheduler scheduler(reader, node_->metrics, {});
  on_computed = [&] {
    client->Close(absl::CancelledError("enough"));
    scheduler.Cancel(*request, events->WaitUntilClosed());
  };
  request =
      *scheduler.Submit(*ReadBegin(Begin(8), node_->model.config(), node_->identity), channel);
  ASSERT_TRUE(Eventually([&] { return scheduler.Go(*request).ok(); }));
  ASSERT_TRUE(Eventually([this] { return !Ended().empty(); }));
  EXPECT_THAT(Ended(), ElementsAre(Pair("CANCELLED", 1)));
}

}  // namespace
}  // namespace kvship
