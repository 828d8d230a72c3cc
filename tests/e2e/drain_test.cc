// SIGTERM: what it means for running requests, for new ones, and for a pool that is restarted node
// by node.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <future>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "rpc/compression.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/pools.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// An answer that is longer than what connections buffer, so that a reader who pauses holds it open.
v1::GenerateRequest LongRequest() {
  v1::GenerateRequest request;
  for (uint32_t i = 0; i < 20; ++i) request.mutable_tokens()->add_ids(i * 37 % 320);
  *request.mutable_compression() = *CompressionFromText("scorer=keep_all");
  request.set_max_tokens(2000);
  request.set_ignore_end_tokens(true);
  request.set_logprobs(20);
  return request;
}

// Asks for that on a thread of its own, and pauses after the first output.
class PausingReader {
 public:
  PausingReader(const std::string& server, absl::Duration pause)
      : thread_([this, server, pause] {
          GenerationClient client(server, {.retries = 0});
          bool first = true;
          status_ = client
                        .Generate(LongRequest(), absl::Now() + absl::Seconds(60),
                                  [&](const v1::GenerateResponse& response) {
                                    if (!first || !response.has_output()) return;
                                    first = false;
                                    began_.set_value();
                                    absl::SleepFor(pause);
                                  })
                        .status();
        }) {
    EXPECT_EQ(began_.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  }

  absl::Status WaitForEnd() {
    thread_.join();
    return status_;
  }

 private:
  std::promise<void> began_;
  absl::Status status_;
  std::thread thread_;
};

bool BecomesUnready(const Server& server) {
  return Eventually([&server] { return HttpGet(server.admin_port, "/readyz").empty(); },
                    absl::Seconds(1));
}

// Restarts nodes one after the other, each when the one before is ready.
void RollingRestart(Pools& pools, Server& (Pools::*node)(size_t)) {
  for (size_t i = 0; i < Pools::kNodes; ++i) {
    Server& server = (pools.*node)(i);
    server.process.Signal(SIGTERM);
    EXPECT_TRUE(BecomesUnready(server));
    EXPECT_EQ(server.process.Wait(), 0) << server.process.Errors();
    EXPECT_THAT(server.process.Errors(), HasSubstr("stopped"));
    server.process.Restart();
    ASSERT_TRUE(server.WaitUntilReady()) << server.process.Errors();
  }
}

// Twice, under load; every request must be answered.
void RestartUnderLoad(Server& (Pools::*node)(size_t), size_t retries) {
  Pools pools;
  ASSERT_TRUE(pools.WaitUntilReady());
  CheckedLoad load({.servers = pools.decode_addresses(), .retries = retries});
  load.Start();
  const absl::Time begun = MonotonicNow();
  for (int round = 0; round < 2; ++round) RollingRestart(pools, node);
  const absl::Duration taken = MonotonicNow() - begun;
  load.Stop();
  EXPECT_THAT(load.faults(), IsEmpty());
  const auto outcomes = load.outcomes();
  std::cout << "2 rolling restarts in " << taken
            << ", requests: " << absl::StrJoin(outcomes, ", ", absl::PairFormatter(" "))
            << std::endl;
  EXPECT_EQ(outcomes.size(), 1u);
  EXPECT_GT(outcomes.at("OK"), 50u);
}

TEST(DrainTest, RollingRestartOfThePrefillPoolNeedsNoRetryOfClients) {
  RestartUnderLoad(&Pools::prefill, /*retries=*/0);
}

TEST(DrainTest, RollingRestartOfTheDecodePoolLosesNoRequest) {
  RestartUnderLoad(&Pools::decode, /*retries=*/3);
}

TEST(DrainTest, RunningStreamsEndAndNewRequestsAreRefused) {
  Pools pools;
  ASSERT_TRUE(pools.WaitUntilReady());
  Server& decode = pools.decode(0);
  PausingReader reader(decode.address(), absl::Seconds(4));
  decode.process.Signal(SIGTERM);
  EXPECT_TRUE(BecomesUnready(decode));
  // After the notice.
  GenerationClient client(decode.address(), {.retries = 0});
  EXPECT_TRUE(Eventually(
      [&client] {
        return absl::IsUnavailable(client.GetModelInfo(absl::Now() + absl::Seconds(1)).status());
      },
      absl::Seconds(3)));
  EXPECT_EQ(reader.WaitForEnd(), absl::OkStatus());
  EXPECT_EQ(decode.process.Wait(), 0) << decode.process.Errors();
}

TEST(DrainTest, WaitIsBoundedAndWhatIsLeftIsToldToComeAgain) {
  Pools pools({"--drain_grace=1500ms"});
  ASSERT_TRUE(pools.WaitUntilReady());
  Server& decode = pools.decode(0);
  PausingReader reader(decode.address(), absl::Seconds(3));
  const absl::Time begun = MonotonicNow();
  decode.process.Signal(SIGTERM);
  EXPECT_EQ(decode.process.Wait(), 0) << decode.process.Errors();
  EXPECT_LT(MonotonicNow() - begun, absl::Seconds(10));
  EXPECT_THAT(decode.process.Errors(), HasSubstr("did not end within 1.5s"));
  const absl::Status status = reader.WaitForEnd();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("send the request again"));
}

}  // namespace
}  // namespace kvship
