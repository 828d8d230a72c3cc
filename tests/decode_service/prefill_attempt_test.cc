#include "decode_service/prefill_attempt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "rpc/sealed_message.h"
#include "tests/decode_service/prefill_attempt_fixture.h"
#include "tests/no_memory_for.h"

namespace kvship {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

TEST_F(PrefillAttemptTest, BeginsAndSaysGoOnceMemoryIsReserved) {
  ASSERT_EQ(channel_->sent.size(), 1u);
  const v1::PrefillBegin& begin = channel_->sent[0].begin();
  EXPECT_EQ(begin.tokens_size(), static_cast<int>(kPromptTokens));
  EXPECT_TRUE(begin.compression().has_window_reduce());
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
  Send(Ready());
  ASSERT_EQ(channel_->sent.size(), 2u);
  EXPECT_EQ(channel_->sent[1].go().transport(), "grpc");
  EXPECT_GT(node_.pool->reserved_bytes(), 0u);
}

TEST_F(PrefillAttemptTest, WholeCacheIsHandedOver) {
  Send(Ready());
  SendCache();
  ASSERT_TRUE(end_.has_value() && end_->ok()) << end_->status();
  EXPECT_EQ((*end_)->first_token.token, 7);
  EXPECT_EQ((*end_)->kv.kept_tokens(), 40);
  EXPECT_EQ((*end_)->kv.shipped_bytes(), request_.plan.wire_bytes());
  const KvPlan whole = *MakePlan(*ParseCompression("scorer=keep_all"), node_.shape, kPromptTokens);
  EXPECT_EQ((*end_)->kv.uncompressed_bytes(), whole.wire_bytes());
  EXPECT_EQ((*end_)->kv.pool_bytes(), request_.plan.page_bytes());
  EXPECT_NEAR((*end_)->kv.retained_mass_min(), 0.5, 1e-6);
  EXPECT_NEAR((*end_)->kv.chosen_mass_mean(), 0.25, 1e-6);
  EXPECT_EQ((*end_)->kv.layers_size(), static_cast<int>(node_.shape.num_layers));
  EXPECT_TRUE(channel_->closed.has_value() && channel_->closed->ok());
  attempt_->OnClosed(absl::OkStatus());
  end_.reset();
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(PrefillAttemptTest, OnlyTheTimeInWhichLayersComeInIsReceiveTime) {
  constexpr absl::Duration kFrameDelay = absl::Milliseconds(20),
                           kComputing = absl::Milliseconds(60);
  Send(Ready());
  const absl::Time begun = MonotonicNow();
  absl::SleepFor(kComputing);
  SendCache([&](FrameHeader& header, auto&) {
    if (header.sequence == 3) absl::SleepFor(kFrameDelay);
  });
  const absl::Duration whole = MonotonicNow() - begun;
  ASSERT_TRUE(end_.has_value() && end_->ok()) << end_->status();
  EXPECT_GE((*end_)->receive_time, kFrameDelay);
  EXPECT_LE((*end_)->receive_time, whole - kComputing);
}

TEST_F(PrefillAttemptTest, TransferTakesWhatTheNodeDidNot) {
  constexpr absl::Duration kBacklog = absl::Milliseconds(60), kComputing = absl::Milliseconds(10);
  for (const std::optional<double> told : {std::optional(absl::ToDoubleMilliseconds(kComputing)),
                                           std::optional<double>(), std::optional(1e300)}) {
    end_.reset();
    Start();
    const absl::Time begun = MonotonicNow();
    Send(Ready());
    absl::SleepFor(kBacklog);
    v1::PrefillResponse computed;
    computed.mutable_progress()->set_fraction(1);
    Send(computed);
    SendCache([](FrameHeader&, auto&) {},
              [told](v1::PrefillManifest& manifest) {
                if (told) manifest.set_computed_after_ms(*told);
              });
    const double whole = absl::ToDoubleMilliseconds(MonotonicNow() - begun);
    ASSERT_TRUE(end_.has_value() && end_->ok()) << end_->status();
    const double transfer = (*end_)->timing.transfer_ms();
    if (told == absl::ToDoubleMilliseconds(kComputing)) {
      EXPECT_GE(transfer, absl::ToDoubleMilliseconds(kBacklog - kComputing));
      EXPECT_LE(transfer, whole - *told);
    } else {
      EXPECT_LE(transfer, whole - absl::ToDoubleMilliseconds(kBacklog));
    }
    EXPECT_GE(transfer, 0);
    attempt_->OnClosed(absl::OkStatus());
  }
}

TEST_F(PrefillAttemptTest, AnyFaultyFrameEndsItWithDataLoss) {
  const Change changes[] = {
      [](FrameHeader& header, auto& bytes) {
        if (header.sequence == 3) bytes[5] ^= std::byte{1};
      },
      [](FrameHeader& header, auto&) {
        if (header.sequence == 3) header.sequence = 4;
      },
      [](FrameHeader& header, auto&) {
        if (header.sequence == 2) header.offset += 8;
      },
      [](FrameHeader& header, auto& bytes) {
        if (header.sequence == 2) bytes.pop_back();
      },
  };
  for (const Change& change : changes) {
    end_.reset();
    Start();
    Send(Ready());
    SendCache(change);
    ASSERT_TRUE(end_.has_value());
    EXPECT_EQ(end_->status().code(), absl::StatusCode::kDataLoss) << end_->status();
    EXPECT_EQ(channel_->closed->code(), absl::StatusCode::kDataLoss);
    attempt_->OnClosed(*channel_->closed);
  }
}

TEST_F(PrefillAttemptTest, AFieldOfTheManifestThatCannotBeEndsItWithDataLoss) {
  using Manifest = v1::PrefillManifest;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::pair<const char*, ChangeManifest> changes[] = {
      {"reused_tokens 101", [](Manifest& told) { told.set_reused_tokens(kPromptTokens + 1); }},
      {"queue_ms nan", [](Manifest& told) { told.set_queue_ms(kNan); }},
      {"prefill_ms -1", [](Manifest& told) { told.set_prefill_ms(-1); }},
      {"compress_ms inf", [](Manifest& told) { told.set_compress_ms(kInfinity); }},
      {"computed_after_ms nan", [](Manifest& told) { told.set_computed_after_ms(kNan); }},
  };
  for (const auto& [field, change] : changes) {
    end_.reset();
    Start();
    Send(Ready());
    SendCache([](FrameHeader&, auto&) {}, change);
    ASSERT_TRUE(end_.has_value());
    EXPECT_EQ(end_->status().code(), absl::StatusCode::kDataLoss) << field;
    EXPECT_THAT(std::string(end_->status().message()), HasSubstr(field));
    EXPECT_FALSE(attempt_->failed_here());
  }
}

TEST_F(PrefillAttemptTest, ProgressThatIsNoNumberEndsItWithDataLoss) {
  v1::PrefillResponse message;
  message.mutable_progress()->set_fraction(std::numeric_limits<float>::quiet_NaN());
  Send(message);
  ASSERT_TRUE(end_.has_value());
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(end_->status().message()), HasSubstr("progress.fraction"));
}

TEST_F(PrefillAttemptTest, WhatThisSideCannotWriteIsNotTheNodesFailure) {
  const absl::Status lost = absl::InternalError("the GPU is lost");
  const std::pair<absl::StatusCode, std::function<absl::Status()>> writes[] = {
      {absl::StatusCode::kInternal, [&] { return lost; }},
      {absl::StatusCode::kResourceExhausted, []() -> absl::Status { throw std::bad_alloc(); }},
  };
  for (const auto& [code, write] : writes) {
    end_.reset();
    Start();
    write_ = write;
    Send(Ready());
    SendCache();
    ASSERT_TRUE(end_.has_value());
    EXPECT_EQ(end_->status().code(), code) << end_->status();
    EXPECT_TRUE(attempt_->failed_here());
  }
}

TEST_F(PrefillAttemptTest, BytesBeforeGoAreRefused) {
  SendCache();
  ASSERT_TRUE(end_.has_value());
  EXPECT_THAT(std::string(end_->status().message()), HasSubstr("before Go"));
}

TEST_F(PrefillAttemptTest, AnotherPlanIsRefused) {
  v1::PrefillResponse ready = Ready();
  ready.mutable_ready()->mutable_plan()->set_layer_tokens(0, 1);
  Send(ready);
  ASSERT_TRUE(end_.has_value());
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PrefillAttemptTest, AnotherWireMajorIsRefused) {
  v1::PrefillResponse ready = Ready();
  ready.mutable_ready()->mutable_wire_version()->set_major(kWireMajor + 1);
  Send(ready);
  ASSERT_TRUE(end_.has_value());
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PrefillAttemptTest, NodeWithoutOurTransportIsRefused) {
  v1::PrefillResponse ready = Ready();
  ready.mutable_ready()->clear_transports();
  Send(ready);
  ASSERT_TRUE(end_.has_value());
  EXPECT_THAT(std::string(end_->status().message()), HasSubstr("'grpc'"));
}

TEST_F(PrefillAttemptTest, MessageThatCannotBeReadEndsIt) {
  const std::string bytes = "\xff\xff\xff";
  attempt_->OnMessage(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(PrefillAttemptTest, ADamagedMessageEndsItWithDataLoss) {
  std::string bytes = Sealed(Ready());
  bytes[bytes.size() / 2] ^= 1;
  attempt_->OnMessage(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kDataLoss) << end_->status();
}

TEST_F(PrefillAttemptTest, AMessageWithoutASealIsOfAnOlderNodeOrDamaged) {
  v1::PrefillResponse ready = Ready();
  const std::string damaged = ready.SerializeAsString();
  attempt_->OnMessage(std::as_bytes(std::span(damaged)));
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kDataLoss) << end_->status();
  end_.reset();
  Start();
  ready.mutable_ready()->mutable_wire_version()->set_minor(1);
  const std::string older = ready.SerializeAsString();
  attempt_->OnMessage(std::as_bytes(std::span(older)));
  EXPECT_FALSE(end_.has_value()) << end_->status();
  EXPECT_TRUE(channel_->sent.back().has_go());
}

TEST_F(PrefillAttemptTest, ACancellationBeforeItIsOpenIsNotLost) {
  const absl::Status why = absl::UnavailableError("it says that it cannot serve");
  Start(nullptr, [this, &why](const std::shared_ptr<ChannelEvents>&) {
    attempt_->Cancel(why);
    return channel_;
  });
  EXPECT_EQ(channel_->closed, why);
  EXPECT_TRUE(channel_->sent.empty());
  attempt_->OnClosed(why);
  ASSERT_TRUE(end_.has_value());
  EXPECT_EQ(end_->status(), why);
}

TEST_F(PrefillAttemptTest, TokensAllowedGoToNoNodeThatDoesNotKnowOfThem) {
  request_.first_token_mask = TokenMask(10, 3);
  Start();
  EXPECT_THAT(channel_->sent.at(0).begin().allowed_tokens(),
              ElementsAreArray(request_.first_token_mask));
  ExpectRefusesNode(kAllowedTokensWireMinor - 1);
}

TEST_F(PrefillAttemptTest, SaltGoesToNoNodeThatDoesNotKnowOfIt) {
  request_.cache_salt = "mine";
  Start();
  EXPECT_EQ(channel_->sent.at(0).begin().cache_salt(), "mine");
  ExpectRefusesNode(kCacheSaltWireMinor - 1);
}

TEST_F(PrefillAttemptTest, NodeLostHalfwayFreesEverything) {
  Send(Ready());
  v1::PrefillResponse layer;
  *layer.mutable_layer() = LayerHeaderToProto(
      {.layer = 0,
       .kept_tokens = {40, 40},
       .retained_mass = {1, 1},
       .chosen_mass = {1, 1},
       .num_bytes = LayoutOf(request_.plan, std::vector<uint32_t>{40, 40}).num_bytes});
  Send(layer);
  EXPECT_FALSE(end_.has_value());
  attempt_->OnClosed(absl::UnavailableError("connection lost"));
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
}

TEST_F(PrefillAttemptTest, StreamThatEndsWithoutAManifestIsALostNode) {
  Send(Ready());
  attempt_->OnClosed(absl::OkStatus());
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(PrefillAttemptTest, NodeThatIsReadyWhileThereIsNoRoomIsLetGo) {
  pool_is_blocked_ = true;
  TinyNode::Prefilled blocker =
      node_.Prefill(node_.Prompt(100, 2), "scorer=keep_all", kBlockingTail);
  Send(Ready());
  EXPECT_EQ(channel_->sent.size(), 1u);
  EXPECT_EQ(end_->status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(attempt_->found_no_room());
  EXPECT_FALSE(channel_->closed->ok());
}

TEST_F(PrefillAttemptTest, ADeadlineOnTheWayIsNotTheRequests) {
  attempt_->OnClosed(absl::DeadlineExceededError("upstream request timeout"));
  EXPECT_TRUE(absl::IsUnavailable(end_->status())) << end_->status();
}

TEST_F(PrefillAttemptTest, MemoryReservedBeforeIsUsed) {
  attempt_->Cancel(absl::CancelledError("not this one"));
  attempt_->OnClosed(absl::CancelledError("not this one"));
  end_.reset();
  Start(*node_.queue.TryReserve(*ticket_));
  const size_t reserved = node_.pool->reserved_bytes();
  Send(Ready());
  ASSERT_EQ(channel_->sent.size(), 2u);
  EXPECT_TRUE(channel_->sent[1].has_go());
  EXPECT_EQ(node_.pool->reserved_bytes(), reserved);
  SendCache();
  EXPECT_TRUE(end_->ok()) << end_->status();
}

TEST_F(PrefillAttemptTest, OneWhosePromptMemoryDoesNotHoldASecondTimeEndsAndOpensNoStream) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  request_.request_id.assign(1236, 'r');
  bool opened = false;
  {
    const NoMemoryFor none(request_.request_id.size() + 1);
    Start(nullptr, [&](const std::shared_ptr<ChannelEvents>&) {
      opened = true;
      return channel_;
    });
  }
  ASSERT_TRUE(end_.has_value());
  EXPECT_TRUE(absl::IsResourceExhausted(end_->status())) << end_->status();
  EXPECT_FALSE(opened);
}

TEST_F(PrefillAttemptTest, WhatComesWhileTheStreamIsOpenedEndsIt) {
  for (const bool is_ready : {true, false}) {
    end_.reset();
    const std::string bytes = is_ready ? Sealed(Ready()) : "?";
    Start(nullptr, [&](const std::shared_ptr<ChannelEvents>& events) {
      events->OnMessage(std::as_bytes(std::span(bytes)));
      return channel_;
    });
    ASSERT_TRUE(end_.has_value());
    EXPECT_TRUE(absl::IsDataLoss(end_->status())) << end_->status();
    ASSERT_TRUE(channel_->closed.has_value()) << "nobody else would";
    EXPECT_FALSE(channel_->closed->ok());
  }
}

}  // namespace
}  // namespace kvship
