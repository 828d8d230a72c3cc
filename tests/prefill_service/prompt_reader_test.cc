// What a prefill node does with what its reader says.
#include "prefill_service/prompt_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>

#include "prefill_service/host_prompt_reader.h"
#include "prefill_service/prefill_scheduler.h"
#include "tests/engine/mixture_gguf.h"
#include "tests/eventually.h"
#include "tests/prefill_service/closed_channel.h"
#include "tests/prefill_service/prefill_node.h"
#include "tests/prefill_service/reader_over.h"

namespace kvship {
namespace {

using ::testing::Each;

// The CPU's, with prompts that are refused, and a note of what is begun together.
class ChoosyReader final : public PromptReader {
 public:
  explicit ChoosyReader(const Transformer& model) : host_(model, backend_, {}) {}

  const ModelConfig& config() const override { return host_.config(); }
  size_t pack_tokens() const override { return 0; }
  absl::Status Check(const PrefillTask& task) const override {
    return task.tokens.size() < 100 ? absl::OkStatus() : absl::FailedPreconditionError("too long");
  }
  size_t BytesFor(const PrefillTask& task) const override { return host_.BytesFor(task); }
  size_t prefix_cache_bytes() const override { return reusable; }
  size_t CountReusable(const PrefillTask&) const override { return reusable; }
  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    begun.push_back(tasks.size());
    if (tasks.front()->tokens.size() == 66) return absl::ResourceExhaustedError("no room");
    return host_.Begin(tasks);
  }

  absl::Status CheckDevice() override { return device; }

  std::vector<size_t> begun;
  absl::Status device;
  size_t reusable = 0;

 private:
  Backend backend_{1};
  HostPromptReader host_;
};

constexpr size_t kHeldUpTokens = 200, kOverflowingTokens = 21;

// Another reading. One prompt's logits are no numbers, and another one's second step waits.
class SpoiltReading final : public ReadingOver {
 public:
  SpoiltReading(std::unique_ptr<PromptReading> reading, std::span<const PrefillTask* const> tasks,
                std::shared_future<void> go)
      : ReadingOver(std::move(reading)), go_(std::move(go)) {
    for (const PrefillTask* task : tasks) num_tokens_.push_back(task->tokens.size());
  }

  absl::StatusOr<Event> Step() override {
    if (num_tokens_.front() == kHeldUpTokens && num_steps_++ > 0) go_.wait();
    return ReadingOver::Step();
  }
  absl::StatusOr<Array<float>> Logits(size_t prompt) override {
    auto logits = ReadingOver::Logits(prompt);
    if (num_tokens_[prompt] == kOverflowingTokens) {
      std::fill_n(logits->data(), logits->size(), std::numeric_limits<float>::quiet_NaN());
    }
    return logits;
  }

 private:
  const std::shared_future<void> go_;
  std::vector<size_t> num_tokens_;
  size_t num_steps_ = 0;
};

class SpoiltReader final : public ReaderOver {
 public:
  using ReaderOver::ReaderOver;

  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    ++num_begun;
    return std::make_unique<SpoiltReading>(*ReaderOver::Begin(tasks), tasks, go);
  }

  std::atomic<size_t> num_begun = 0;
  std::shared_future<void> go;
};

class PromptReaderTest : public ::testing::Test {
 protected:
  PrefillTask Task(size_t num_tokens) {
    PrefillTask task;
    task.tokens = RandomTokens(num_tokens, num_tokens);
    task.compression = *ParseCompression("scorer=keep_all");
    task.plan = *MakePlan(task.compression, ShapeOf(model_.config()), num_tokens);
    return task;
  }

  TinyModel model_;
  prometheus::Registry registry_;
  PrefillMetrics metrics_{registry_};
  ChoosyReader reader_{model_.transformer()};
};

TEST_F(PromptReaderTest, WhatItRefusesIsNotAdmitted) {
  PrefillScheduler scheduler(reader_, metrics_, {});
  const auto channel = std::make_shared<ClosedChannel>();
  EXPECT_EQ(scheduler.Submit(Task(100), channel).status(),
            absl::FailedPreconditionError("too long"));
  EXPECT_EQ(metrics_.queue_tokens.Value(), 0);
}

TEST_F(PromptReaderTest, ReadsPromptsOneByOneWhereItDoesNotPack) {
  PrefillScheduler scheduler(reader_, metrics_, {});
  std::vector<std::shared_ptr<ClosedChannel>> channels;
  std::vector<std::shared_ptr<PrefillScheduler::Request>> requests;
  for (size_t num_tokens : {20, 30, 40}) {
    channels.push_back(std::make_shared<ClosedChannel>());
    requests.push_back(*scheduler.Submit(Task(num_tokens), channels.back()));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    // Ready comes when it is a request's turn.
    ASSERT_TRUE(Eventually([&] { return scheduler.Go(*requests[i]).ok(); }));
    EXPECT_EQ(channels[i]->WaitUntilClosed(), absl::OkStatus());
  }
  EXPECT_EQ(reader_.begun.size(), 3u);
  EXPECT_THAT(reader_.begun, Each(1u));
}

TEST_F(PromptReaderTest, AnOverflowEndsItsPromptAndNotThatReadWithIt) {
  Backend backend(1);
  HostPromptReader host(model_.transformer(), backend, {.block_tokens = 64});
  SpoiltReader reader(host);
  std::promise<void> go;
  reader.go = go.get_future().share();
  PrefillScheduler scheduler(reader, metrics_, {});
  std::vector<std::shared_ptr<ClosedChannel>> channels;
  for (const size_t num_tokens : {kHeldUpTokens, size_t{20}, kOverflowingTokens}) {
    channels.push_back(std::make_shared<ClosedChannel>());
    const auto request = *scheduler.Submit(Task(num_tokens), channels.back());
    ASSERT_TRUE(Eventually([&] { return scheduler.Go(*request).ok(); }));
    ASSERT_TRUE(Eventually([&] { return reader.num_begun == 1; }));
  }
  go.set_value();
  EXPECT_EQ(channels[0]->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(channels[1]->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(channels[2]->WaitUntilClosed(), NoLogits());
  EXPECT_EQ(reader.num_begun, 2u);
  EXPECT_EQ(metrics_.queue_tokens.Value(), 0);
  EXPECT_EQ(scheduler.CheckProgress(), absl::OkStatus());
}

TEST_F(PromptReaderTest, WhatItHasAlreadyIsNotLeftToRead) {
  reader_.reusable = 12;
  PrefillScheduler scheduler(reader_, metrics_, {});
  const auto channel = std::make_shared<ClosedChannel>();
  const auto request = *scheduler.Submit(Task(20), channel);
  ASSERT_TRUE(Eventually([this] { return metrics_.unread_tokens.Value() == 8; }));
  EXPECT_EQ(metrics_.queue_tokens.Value(), 20);
  ASSERT_TRUE(Eventually([&] { return scheduler.Go(*request).ok(); }));
  EXPECT_EQ(channel->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(metrics_.unread_tokens.Value(), 0);
}

TEST_F(PromptReaderTest, ADeviceWithoutRoomIsNoFaultOfTheNode) {
  PrefillScheduler scheduler(reader_, metrics_, {});
  const auto channel = std::make_shared<ClosedChannel>();
  const auto request = *scheduler.Submit(Task(66), channel);
  ASSERT_TRUE(Eventually([&] { return scheduler.Go(*request).ok(); }));
  EXPECT_EQ(channel->WaitUntilClosed(), absl::ResourceExhaustedError("no room"));
  EXPECT_EQ(scheduler.CheckProgress(), absl::OkStatus());
}

TEST_F(PromptReaderTest, ALostDeviceIsToldForGood) {
  reader_.device = absl::InternalError("illegal address");
  PrefillScheduler scheduler(reader_, metrics_, {});
  const auto channel = std::make_shared<ClosedChannel>();
  const auto request = *scheduler.Submit(Task(66), channel);
  ASSERT_TRUE(Eventually([&] { return scheduler.Go(*request).ok(); }));
  EXPECT_FALSE(channel->WaitUntilClosed().ok());
  EXPECT_TRUE(absl::IsInternal(scheduler.CheckProgress()));
}

TEST(HostPromptReader, VotesOfALongWindowComeInSteps) {
  TinyModel model;
  Backend backend(1);
  HostPromptReader reader(model.transformer(), backend, {.block_tokens = 256});
  PrefillTask task;
  task.tokens = RandomTokens(700, 1);
  task.compression = *ParseCompression("observe_begin=1,recent_tokens=0,budget_tokens=64");
  task.plan = *MakePlan(task.compression, ShapeOf(model.config()), 700);
  const PrefillTask* const tasks[] = {&task};
  const auto reading = *reader.Begin(tasks);
  for (size_t layer = 0; layer < model.config().num_layers; ++layer) {
    // Three blocks of the prompt's tokens, and three of the 699 that vote, of which the first comes
    // with the last of the others.
    for (int step = 0; step < 4; ++step) {
      EXPECT_EQ(*reading->Step(), PromptReading::Event::kBlockDone);
      EXPECT_LT(reading->fraction(), 1);
      EXPECT_FALSE(reading->done());
    }
    EXPECT_EQ(*reading->Step(), PromptReading::Event::kLayerDone);
    EXPECT_EQ(reading->Compress(0, {})->kept_tokens[0], 64u);
  }
  EXPECT_TRUE(reading->done());
  EXPECT_EQ(reading->fraction(), 1);
}

TEST(HostPromptReader, PacksAMixturesPromptsUpToSeveralBlocks) {
  Backend backend(1);
  const auto dense = TinyModelOf("llama"), mixture = TinyModelOf("mixtral");
  EXPECT_EQ(HostPromptReader(*dense, backend, {.block_tokens = 16}).pack_tokens(), 16u);
  EXPECT_EQ(HostPromptReader(*mixture, backend, {.block_tokens = 16}).pack_tokens(), 128u);
}

}  // namespace
}  // namespace kvship
