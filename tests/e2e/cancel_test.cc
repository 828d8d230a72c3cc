// Clients that go away: what their requests hold is free at once, whatever they wait for.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "tests/e2e/long_context_model.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"
#include "tests/e2e/unread_completion.h"

namespace kvship {
namespace {

constexpr size_t kNumClients = 16;
// Enough that they still decode when they go.
constexpr uint32_t kLongOutput = 20'000;
// Steps take a few milliseconds, a look at a metric as long; the rest is for a busy machine.
constexpr absl::Duration kMost = absl::Milliseconds(500);

// How long it takes from now on until a metric is 0.
absl::Duration TimeUntilNone(const Server& decode, const std::string& metric) {
  const absl::Time begin = MonotonicNow();
  while (decode.metric(metric) != 0) {
    if (MonotonicNow() - begin > absl::Seconds(20)) return absl::InfiniteDuration();
  }
  return MonotonicNow() - begin;
}

class CancelTest : public ::testing::Test {
 protected:
  // A decode node with its HTTP port.
  std::unique_ptr<Server> Decode(std::vector<std::string> flags) {
    flags.insert(flags.end(),
                 {"--threads=1", absl::StrCat("--prefill=", prefill_.address()),
                  absl::StrCat("--http=127.0.0.1:", http_port_), "--served_model_name=tiny"});
    auto decode = std::make_unique<Server>("kvship-decode", model_.path(), flags);
    EXPECT_TRUE(prefill_.WaitUntilReady() && decode->WaitUntilReady());
    return decode;
  }

  // Makes a whole batch of clients, and takes them away while their answers are being made. Prints
  // and returns how long their pages took to be back.
  template <class Client, class Make>
  absl::Duration GoneInMidDecode(const std::string& kind, const Make& make) {
    const auto decode = Decode({absl::StrCat("--max_unread_tokens=", kLongOutput)});
    const auto all_decode = [&decode] {
      return decode->metric("kvship_decode_sessions") == kNumClients;
    };
    const auto num_steps = [&decode] {
      return decode->metric("kvship_decode_batch_sessions_count");
    };
    std::vector<std::unique_ptr<Client>> clients;
    for (size_t i = 0; i < kNumClients; ++i) clients.push_back(make(*decode, i));
    EXPECT_TRUE(Eventually(all_decode)) << decode->process.Errors();
    const double held_bytes = decode->metric("kvship_decode_pool_reserved_bytes");
    const double steps_before = num_steps();
    const absl::Time begin = MonotonicNow();
    absl::SleepFor(absl::Milliseconds(20));
    const double steps = num_steps() - steps_before;
    const double step_ms = absl::ToDoubleMilliseconds(MonotonicNow() - begin) / steps;
    EXPECT_TRUE(all_decode()) << "none has ended by itself";
    clients.clear();
    const absl::Duration taken = TimeUntilNone(*decode, "kvship_decode_pool_reserved_bytes");
    std::cout << absl::StrFormat(
        "%d %s clients gone in mid-decode: %.1f MB of pages back after %.1f ms, at %.1f ms a "
        "step\n",
        kNumClients, kind, held_bytes * 1e-6, absl::ToDoubleMilliseconds(taken), step_ms);
    return taken;
  }

  const LongContextModel model_;
  const int http_port_ = FreePort();
  Server prefill_{"kvship-prefill", model_.path(), {"--threads=1"}};
};

TEST_F(CancelTest, PagesOfAGrpcClientThatGoesAreBackAtOnce) {
  const auto make = [](const Server& decode, size_t) {
    return std::make_unique<Stream>(decode, TinyRequest(20, kLongOutput));
  };
  EXPECT_LT(GoneInMidDecode<Stream>("gRPC", make), kMost);
}

TEST_F(CancelTest, PagesOfAnHttpClientThatGoesAreBackAtOnce) {
  const auto make = [this](const Server&, size_t i) {
    return std::make_unique<UnreadCompletion>(http_port_,
                                              TinyHttpBody(20, kLongOutput, /*stream=*/i % 2 == 0));
  };
  EXPECT_LT(GoneInMidDecode<UnreadCompletion>("HTTP", make), kMost);
}

TEST_F(CancelTest, AnHttpClientThatGoesLeavesTheLineAtOnce) {
  const auto decode = Decode({"--pool_bytes=524288", "--max_unread_tokens=4"});
  v1::GenerateRequest half = TinyRequest(500, 500);
  half.set_logprobs(20);  // much to be read
  const Stream holder(*decode, half, {.reads = false});
  ASSERT_TRUE(Eventually([&] { return decode->metric("kvship_decode_sessions") == 1; }));
  constexpr char kWaiting[] = "kvship_decode_waiting_prompt_tokens";
  std::vector<absl::Duration> taken;
  for (int i = 0; i < 9; ++i) {
    {
      const UnreadCompletion large(http_port_, TinyHttpBody(1900, 30, /*stream=*/i % 2 == 0));
      ASSERT_TRUE(Eventually([&] { return decode->metric(kWaiting) == 1900; }));
      absl::SleepFor(absl::Milliseconds(50));  // it has asked a prefill node, and stands in line
    }
    taken.push_back(TimeUntilNone(*decode, kWaiting));
  }
  std::sort(taken.begin(), taken.end());
  const absl::Duration median = taken[taken.size() / 2];
  std::cout << absl::StrFormat(
      "HTTP clients gone from the line: out of it after %.1f ms (median), "
      "%.1f ms (most)\n",
      absl::ToDoubleMilliseconds(median), absl::ToDoubleMilliseconds(taken.back()));
  // The faster ones, as the machine may be busy. Looking once in 200 ms would rarely be so lucky.
  EXPECT_LT(taken[2], absl::Milliseconds(30));
}

}  // namespace
}  // namespace kvship
