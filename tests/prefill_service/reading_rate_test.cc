// How fast a node takes itself to read, and whom its schedule makes wait for it.
#include "prefill_service/reading_rate.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <utility>

#include "prefill_service/host_prompt_reader.h"
#include "prefill_service/prefill_scheduler.h"
#include "tests/prefill_service/closed_channel.h"
#include "tests/prefill_service/prefill_node.h"
#include "tests/prefill_service/reader_over.h"

namespace kvship {
namespace {

// The time of a run that reads `num_tokens`, 500 of them a second, and whatever else every run
// does.
absl::Duration TimeOf(size_t num_tokens) {
  return absl::Milliseconds(200) + static_cast<int64_t>(num_tokens) * absl::Milliseconds(2);
}

TEST(ReadingRate, IsAGuessUntilSomethingWasRead) {
  const ReadingRate rate;
  EXPECT_DOUBLE_EQ(rate.SecondsFor(3000), 3);
  EXPECT_EQ(rate.RetryDelay(1 << 20), absl::Seconds(1));
}

TEST(ReadingRate, FollowsTheMachine) {
  ReadingRate rate;
  for (int i = 0; i < 10; ++i) rate.Note(4096, 0, absl::Seconds(4));
  EXPECT_NEAR(rate.SecondsFor(4096), 4, 1e-9);
  for (int i = 0; i < 10; ++i) rate.Note(4096, 0, absl::Seconds(8));
  EXPECT_NEAR(rate.SecondsFor(4096), 8, 0.2);
}

TEST(ReadingRate, ARunCountsByItsTokens) {
  ReadingRate together;
  ReadingRate apart;
  for (ReadingRate* rate : {&together, &apart}) rate->Note(10'000, 0, absl::Seconds(10));
  together.Note(8000, 0, absl::Seconds(16));
  for (int i = 0; i < 8; ++i) apart.Note(1000, 0, absl::Seconds(2));
  EXPECT_NEAR(apart.SecondsFor(1000), together.SecondsFor(1000), 1e-9);
  EXPECT_NEAR(apart.SecondsFor(1000), 1.5, 0.05) << "half of its weight is of the last 8192";
}

TEST(ReadingRate, ShortRunsCountOnlyUntilALongOne) {
  ReadingRate rate;
  for (int i = 0; i < 5; ++i) rate.Note(20, 0, TimeOf(20));
  EXPECT_NEAR(rate.SecondsFor(20), 0.24, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(rate.RetryDelay(1000)), 12, 1e-6);
  rate.Note(1000, 0, TimeOf(1000));
  for (int i = 0; i < 1000; ++i) rate.Note(20, 4096, TimeOf(20));
  EXPECT_NEAR(rate.SecondsFor(1000), 2.2, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(rate.RetryDelay(1000)), 2.2, 1e-6);
}

TEST(ReadingRate, RunsThatReuseMoreThanTheyReadDoNotCount) {
  ReadingRate rate;
  rate.Note(1000, 1000, absl::Seconds(2));
  for (int i = 0; i < 100; ++i) rate.Note(1000, 100'000, absl::Seconds(20));
  EXPECT_NEAR(rate.SecondsFor(1000), 2, 1e-9);
}

// Every run takes some time, and every token that is read a fiftieth of that.
constexpr absl::Duration kRunTime = absl::Milliseconds(20);
constexpr absl::Duration kTokenTime = absl::Microseconds(400);

class SlowReading final : public ReadingOver {
 public:
  SlowReading(std::unique_ptr<PromptReading> reading, size_t prompt_tokens)
      : ReadingOver(std::move(reading)),
        time_(kRunTime +
              static_cast<int64_t>(prompt_tokens - ReadingOver::reused_tokens(0)) * kTokenTime) {}
  // The first takes all the time.
  absl::StatusOr<Event> Step() override {
    absl::SleepFor(std::exchange(time_, absl::ZeroDuration()));
    return ReadingOver::Step();
  }

 private:
  absl::Duration time_;
};

class SlowReader final : public ReaderOver {
 public:
  using ReaderOver::ReaderOver;
  size_t pack_tokens() const override { return 0; }
  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    return std::make_unique<SlowReading>(*ReaderOver::Begin(tasks), tasks[0]->tokens.size());
  }
};

class PrefillAgeingTest : public ::testing::Test {
 protected:
  // A client with one prompt, kept whole.
  struct Client {
    std::shared_ptr<ClosedChannel> channel;
    std::shared_ptr<PrefillScheduler::Request> request;
  };

  Client Ask(std::vector<int32_t> tokens) {
    PrefillTask task;
    task.tokens = std::move(tokens);
    task.compression = *ParseCompression("scorer=keep_all");
    task.plan = *MakePlan(task.compression, ShapeOf(model_.config()), task.tokens.size());
    Client client{.channel = std::make_shared<ClosedChannel>(), .request = nullptr};
    client.request = *scheduler_.Submit(std::move(task), client.channel);
    return client;
  }
  // Asks a short question about a text that is cached after the first.
  Client AskAboutText() {
    std::vector<int32_t> tokens = RandomTokens(kPrefixBlockTokens, 1);
    tokens.push_back(1);
    return Ask(std::move(tokens));
  }
  // Says Go if it is the client's turn, and returns whether its prompt has been read by now.
  bool IsServed(Client& client) {
    scheduler_.Go(*client.request).IgnoreError();
    if (!client.channel->is_closed()) return false;
    EXPECT_EQ(client.channel->WaitUntilClosed(), absl::OkStatus());
    return true;
  }

  TinyModel model_;
  prometheus::Registry registry_;
  PrefillMetrics metrics_{registry_};
  Backend backend_{1};
  HostPromptReader host_{
      model_.transformer(),
      backend_,
      {.prefix_cache_bytes = 8 * PrefillEngine::PrefixBlockBytes(model_.config())}};
  SlowReader reader_{host_};
  PrefillScheduler scheduler_{reader_, metrics_, {}};
};

TEST_F(PrefillAgeingTest, ShortQuestionsAboutAKnownTextDoNotStarveALongPrompt) {
  Client first = AskAboutText();
  while (!IsServed(first)) absl::SleepFor(absl::Milliseconds(1));
  // Four clients ask again as soon as they have been served.
  std::array<Client, 4> clients;
  for (Client& client : clients) client = AskAboutText();
  size_t num_served = 0;
  const auto serve = [&] {
    for (Client& client : clients) {
      if (!IsServed(client)) continue;
      ++num_served;
      client = AskAboutText();
    }
    std::this_thread::yield();
  };
  while (num_served < 20) serve();
  // 512 tokens take the time of some ten questions. Those of twice that time come first, and those
  // that were there; at the questions' rate, 50 tokens a second, a thousand would.
  Client stranger = Ask(RandomTokens(512, 2));
  num_served = 0;
  while (!IsServed(stranger)) {
    ASSERT_LT(num_served, 60u);
    serve();
  }
  EXPECT_GT(num_served, 0u) << "the shorter come first";
}

}  // namespace
}  // namespace kvship
