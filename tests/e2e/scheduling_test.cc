// Who is served when, and who is refused, where there is not enough for all: the decode pool's line
// and shares, and the prefill node's queue.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "rpc/errors.h"
#include "tests/e2e/api_tokens_file.h"
#include "tests/e2e/long_context_model.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr size_t kSlabBytes = 256 << 10;

constexpr uint32_t kLongOutput = 2000;

struct Nodes {
  explicit Nodes(std::vector<std::string> decode_flags = {},
                 const std::vector<std::string>& prefill_flags = {"--threads=1"})
      : prefill("kvship-prefill", model.path(), prefill_flags),
        decode("kvship-decode", model.path(), WithPrefill(std::move(decode_flags))) {}

  bool WaitUntilReady() { return prefill.WaitUntilReady() && decode.WaitUntilReady(); }
  std::vector<std::string> WithPrefill(std::vector<std::string> flags) const {
    flags.push_back(absl::StrCat("--prefill=", prefill.address()));
    flags.push_back("--threads=1");
    return flags;
  }
  bool PoolEmpties() const {
    return Eventually([this] { return decode.metric("kvship_decode_pool_reserved_bytes") == 0; });
  }

  const LongContextModel model;
  Server prefill;
  Server decode;
};

// So slow that this prompt takes some tenths of a second.
const std::vector<std::string> kSlowPrefill = {"--threads=1", "--block_tokens=1", "--float32"};
constexpr size_t kLongPrompt = 6000;

// Keeps asking for short answers, several at a time.
class Flood {
 public:
  Flood(const Server& decode, size_t num_clients) {
    for (size_t i = 0; i < num_clients; ++i) {
      clients_.emplace_back([this, &decode, i] {
        while (!stop_) {
          const absl::Status end = Stream(decode, TinyRequest(100 + i, 200)).WaitForEnd();
          EXPECT_EQ(end, absl::OkStatus());
          ++num_answered_;
        }
      });
    }
  }
  ~Flood() {
    stop_ = true;
    for (std::thread& client : clients_) client.join();
  }
  size_t num_answered() const { return num_answered_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<size_t> num_answered_{0};
  std::vector<std::thread> clients_;
};

TEST(SchedulingTest, ALargeRequestIsServedAmidAFloodOfSmallOnes) {
  constexpr size_t kPoolBytes = 2 * kSlabBytes;  // the large request takes 95 % of it
  Nodes nodes({absl::StrCat("--pool_bytes=", kPoolBytes)});
  ASSERT_TRUE(nodes.WaitUntilReady());
  Flood flood(nodes.decode, 8);
  ASSERT_TRUE(Eventually([&] { return flood.num_answered() > 20; }));
  const double reserved_bytes = nodes.decode.metric("kvship_decode_pool_reserved_bytes");
  const size_t answered_before = flood.num_answered();
  Stream large(nodes.decode, TinyRequest(1900, 30));
  EXPECT_EQ(large.WaitForEnd(), absl::OkStatus());
  const size_t answered_meanwhile = flood.num_answered() - answered_before;
  std::cout << absl::StrFormat(
      "a request for 95 %% of a pool that was %.0f %% full waited %.0f ms; meanwhile %d small ones "
      "were answered\n",
      100 * reserved_bytes / kPoolBytes, large.report().timing().queue_ms(), answered_meanwhile);
  // Without the line thousands would be, and each leave too little for it.
  EXPECT_LT(answered_meanwhile, 100u);
  EXPECT_TRUE(Eventually([&, then = flood.num_answered()] {
    return flood.num_answered() > then + 20;
  })) << "the flood goes on";
}

TEST(SchedulingTest, ADeadlineThatPassesInLineEndsTheRequestAndLetsTheNextOneCome) {
  constexpr absl::Duration kDeadline = absl::Milliseconds(500);
  // For requests that bring none; so it is the server that keeps it.
  Nodes nodes({absl::StrCat("--pool_bytes=", 2 * kSlabBytes), "--max_unread_tokens=4",
               absl::StrCat("--default_deadline=", absl::FormatDuration(kDeadline))});
  ASSERT_TRUE(nodes.WaitUntilReady());
  v1::GenerateRequest half = TinyRequest(500, 500);
  half.set_logprobs(20);  // much to be read
  const Stream holder(nodes.decode, half, {.reads = false});
  ASSERT_TRUE(Eventually([&] { return nodes.decode.metric("kvship_decode_sessions") == 1; }));
  Stream large(nodes.decode, TinyRequest(1900, 30), {.timeout = absl::InfiniteDuration()});
  ASSERT_TRUE(Eventually(
      [&] { return nodes.decode.metric("kvship_decode_waiting_prompt_tokens") >= 1900; }));
  Stream behind(nodes.decode, TinyRequest(50, 5));
  const absl::Status end = large.WaitForEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kDeadlineExceeded) << end;
  EXPECT_GE(large.total(), kDeadline - absl::Milliseconds(50));
  EXPECT_LT(large.total(), 2 * kDeadline + absl::Seconds(1));
  EXPECT_EQ(behind.WaitForEnd(), absl::OkStatus()) << "it fits beside the one that holds memory";
  std::cout << absl::StrFormat(
      "a deadline of 500 ms ended a request in line after %.0f ms; the one behind it had its first "
      "token at %.0f ms\n",
      absl::ToDoubleMilliseconds(large.total()), absl::ToDoubleMilliseconds(behind.first_token()));
  EXPECT_EQ(nodes.decode.metric("kvship_decode_waiting_prompt_tokens"), 0);
}

// Its clock comes first, and all that the server sees is a client that goes.
TEST(SchedulingTest, AClientsOwnDeadlineIsCountedAsOne) {
  Nodes nodes({absl::StrCat("--pool_bytes=", 2 * kSlabBytes), "--max_unread_tokens=4"});
  ASSERT_TRUE(nodes.WaitUntilReady());
  v1::GenerateRequest half = TinyRequest(500, 500);
  half.set_logprobs(20);
  const Stream holder(nodes.decode, half, {.reads = false});
  ASSERT_TRUE(Eventually([&] { return nodes.decode.metric("kvship_decode_sessions") == 1; }));
  Stream large(nodes.decode, TinyRequest(1900, 30), {.timeout = absl::Milliseconds(1001)});
  EXPECT_EQ(large.WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Eventually([&] {
    return nodes.decode.metric("kvship_decode_requests_total{code=\"DEADLINE_EXCEEDED\"}") == 1;
  }));
}

TEST(SchedulingTest, AClientsShareLeavesRoomForOthers) {
  const ApiTokensFile tokens({"alice", "bob"});
  Nodes nodes({absl::StrCat("--pool_bytes=", 4 * kSlabBytes), "--max_unread_tokens=4",
               absl::StrCat("--max_client_bytes=", 2 * kSlabBytes), tokens.flag()});
  ASSERT_TRUE(nodes.WaitUntilReady());
  v1::GenerateRequest large = TinyRequest(500, 500);  // half of a share
  large.set_logprobs(20);
  std::vector<std::unique_ptr<Stream>> alices;
  for (size_t i = 1; i <= 2; ++i) {
    alices.push_back(std::make_unique<Stream>(
        nodes.decode, large,
        Stream::Options{.api_token = ApiTokensFile::TokenOf("alice"), .reads = false}));
    ASSERT_TRUE(Eventually([&] { return nodes.decode.metric("kvship_decode_sessions") == i; }));
  }
  const double held_bytes = nodes.decode.metric("kvship_decode_pool_reserved_bytes");
  Stream refused(nodes.decode, large, {.api_token = ApiTokensFile::TokenOf("alice")});
  const absl::Status end = refused.WaitForEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("that one client may hold"));
  EXPECT_TRUE(RetryDelayOf(end).has_value());
  Stream bobs(nodes.decode, large, {.api_token = ApiTokensFile::TokenOf("bob")});
  EXPECT_EQ(bobs.WaitForEnd(), absl::OkStatus());
  std::cout << absl::StrFormat(
      "a client that held %.0f KB of its 524 KB was refused more; another had its first token "
      "after %.0f ms\n",
      held_bytes / 1000, absl::ToDoubleMilliseconds(bobs.first_token()));
  alices.clear();
  EXPECT_TRUE(nodes.PoolEmpties());
}

TEST(SchedulingTest, ARequestThatSaysNothingGetsTheServersMaxTokens) {
  Nodes nodes({"--default_max_tokens=7"});
  ASSERT_TRUE(nodes.WaitUntilReady());
  Stream stream(nodes.decode, TinyRequest(20, /*max_tokens=*/0));
  EXPECT_EQ(stream.WaitForEnd(), absl::OkStatus());
  EXPECT_EQ(stream.num_tokens(), 7u);
  EXPECT_EQ(stream.report().usage().output_tokens(), 7u);
  EXPECT_EQ(stream.report().finish_reason(), v1::GenerateReport::FINISH_REASON_LENGTH);
}

TEST(SchedulingTest, SlowReadersDoNotHoldUpTheBatch) {
  Nodes nodes({"--max_unread_tokens=4"});
  ASSERT_TRUE(nodes.WaitUntilReady());
  // The best of some, as the machine may be busy. Who is held up has not ended within its minute.
  const auto tokens_per_second = [&nodes] {
    double most = 0;
    for (int i = 0; i < 3; ++i) {
      Stream stream(nodes.decode, TinyRequest(20, kLongOutput));
      EXPECT_EQ(stream.WaitForEnd(), absl::OkStatus());
      EXPECT_EQ(stream.num_tokens(), kLongOutput);
      most = std::max(most, stream.tokens_per_second());
    }
    return most;
  };
  const double alone = tokens_per_second();
  v1::GenerateRequest unread = TinyRequest(20, kLongOutput);
  unread.set_logprobs(20);
  std::vector<std::unique_ptr<Stream>> slow;
  for (size_t i = 0; i < 4; ++i) {
    slow.push_back(std::make_unique<Stream>(nodes.decode, unread, Stream::Options{.reads = false}));
  }
  ASSERT_TRUE(Eventually([&] { return nodes.decode.metric("kvship_decode_sessions") == 4; }));
  const double beside = tokens_per_second();
  EXPECT_EQ(nodes.decode.metric("kvship_decode_requests_total{code=\"OK\"}"), 6)
      << "none of the four has ended";
  std::cout << absl::StrFormat(
      "tokens per second of a stream alone: %.0f; beside four that are not read: %.0f\n", alone,
      beside);
  slow.clear();
  EXPECT_TRUE(nodes.PoolEmpties());
}

TEST(SchedulingTest, AShortPromptOvertakesALongOne) {
  Nodes nodes({}, kSlowPrefill);
  ASSERT_TRUE(nodes.WaitUntilReady());
  const v1::GenerateRequest short_request = TinyRequest(20, 2);
  const v1::GenerateRequest long_request = TinyRequest(kLongPrompt, 2);
  Stream long_alone(nodes.decode, long_request);  // which also tells the node its own speed
  ASSERT_EQ(long_alone.WaitForEnd(), absl::OkStatus());
  Stream short_alone(nodes.decode, short_request);
  ASSERT_EQ(short_alone.WaitForEnd(), absl::OkStatus());

  // Once is proof; on a busy machine the short one may not reach the node before the long one ends.
  bool has_overtaken = false;
  for (int i = 0; i < 5 && !has_overtaken; ++i) {
    Stream long_stream(nodes.decode, long_request);
    ASSERT_TRUE(long_stream.WaitForPrefill());
    Stream short_stream(nodes.decode, short_request);
    ASSERT_TRUE(short_stream.WaitForFirstToken());
    has_overtaken = long_stream.num_tokens() == 0;
    EXPECT_EQ(short_stream.WaitForEnd(), absl::OkStatus());
    EXPECT_EQ(long_stream.WaitForEnd(), absl::OkStatus());
    std::cout << absl::StrFormat(
        "first token of a prompt of 20 tokens alone: %.0f ms; behind one of 6,000: %.0f ms; that "
        "one itself: %.0f ms, alone %.0f ms\n",
        absl::ToDoubleMilliseconds(short_alone.first_token()),
        absl::ToDoubleMilliseconds(short_stream.first_token()),
        absl::ToDoubleMilliseconds(long_stream.first_token()),
        absl::ToDoubleMilliseconds(long_alone.first_token()));
  }
  EXPECT_TRUE(has_overtaken);
}

TEST(SchedulingTest, AFullPrefillQueueReachesTheClientWithADelay) {
  std::vector<std::string> prefill_flags = kSlowPrefill;
  prefill_flags.push_back("--max_queue_tokens=8000");
  Nodes nodes({}, prefill_flags);
  ASSERT_TRUE(nodes.WaitUntilReady());
  Stream first(nodes.decode, TinyRequest(kLongPrompt, 2));
  ASSERT_TRUE(first.WaitForPrefill());
  Stream second(nodes.decode, TinyRequest(kLongPrompt, 2));
  const absl::Status end = second.WaitForEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("6000 tokens of 8000"));
  EXPECT_GE(RetryDelayOf(end).value_or(absl::ZeroDuration()), absl::Seconds(1));
  EXPECT_EQ(first.WaitForEnd(), absl::OkStatus());
  std::cout << absl::StrFormat("refused after %.0f ms, to come again after %s\n",
                               absl::ToDoubleMilliseconds(second.total()),
                               absl::FormatDuration(*RetryDelayOf(end)));
  // The first one's answer may be there before the prefill node has it off its queue.
  EXPECT_TRUE(Eventually([&] { return nodes.prefill.metric("kvship_prefill_queue_tokens") == 0; }));
  EXPECT_EQ(Stream(nodes.decode, TinyRequest(kLongPrompt, 2)).WaitForEnd(), absl::OkStatus());
  EXPECT_TRUE(nodes.PoolEmpties());
}

TEST(SchedulingTest, APromptTooLongForANodesMemoryGoesToAnotherOrIsRefusedForGood) {
  Nodes nodes({}, {"--threads=1", "--max_active_bytes=300000"});
  ASSERT_TRUE(nodes.WaitUntilReady());
  EXPECT_EQ(Stream(nodes.decode, TinyRequest(500, 2)).WaitForEnd(), absl::OkStatus());
  // (64 + 16 + 2 x 2 x 16) x 4 bytes a token: residual stream, angles, a layer's keys and values.
  const absl::Status end = Stream(nodes.decode, TinyRequest(1000, 2)).WaitForEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kFailedPrecondition) << end;
  EXPECT_THAT(
      std::string(end.message()),
      HasSubstr("a prompt of 1000 tokens takes 576000 bytes while it is read, with what its "
                "compression observes; wanted at most the 300000 of the prefill node's "
                "--max_active_bytes"));

  Server large("kvship-prefill", nodes.model.path(), {"--threads=1"});
  Server decode(
      "kvship-decode", nodes.model.path(),
      {"--threads=1", absl::StrCat("--prefill=", nodes.prefill.address(), ",", large.address())});
  ASSERT_TRUE(large.WaitUntilReady() && decode.WaitUntilReady());
  ASSERT_TRUE(Eventually([&] { return decode.num_serving_nodes() == 2; }));
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Stream(decode, TinyRequest(1000, 2)).WaitForEnd(), absl::OkStatus());
  }
}

}  // namespace
}  // namespace kvship
