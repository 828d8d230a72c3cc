// SIGTERM: what it means for running requests, for new ones, and for a pool that is restarted node
// by node.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/pools.h"
#include "tests/e2e/tiny_request.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

// Sixteen at a time take longer than the notice of a second, on any machine.
v1::GenerateRequest LongRequest() { return TinyRequest(20, 4000); }

// Clients that ask for that, each once, all at the same time.
class Readers {
 public:
  // Returns when all answers have begun.
  Readers(const std::string& server, size_t count) : ends_(count) {
    for (End& end : ends_) {
      threads_.emplace_back([this, &end, server] {
        GenerationClient client(server, {.retries = 0});
        EXPECT_TRUE(Connects(client));
        absl::Time last_output;
        const auto on_response = [&](const v1::GenerateResponse& response) {
          if (!response.has_output()) return;
          if (std::exchange(last_output, MonotonicNow()) == absl::Time()) ++begun_;
        };
        end.status = client.Generate(LongRequest(), absl::Seconds(60), on_response).status();
        end.after_output = MonotonicNow() - last_output;
      });
    }
    EXPECT_TRUE(Eventually([this, count] { return begun_ == count; }));
  }

  struct End {
    absl::Status status;
    absl::Duration after_output;  // how long after the last of it
  };
  std::vector<End> WaitForEnd() {
    for (std::thread& thread : threads_) thread.join();
    return ends_;
  }

 private:
  std::atomic<size_t> begun_{0};
  std::vector<End> ends_;
  std::vector<std::thread> threads_;
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
    EXPECT_THAT(server.process.Errors(), AllOf(HasSubstr("draining: not ready from now on; new "
                                                         "requests are taken for 1s more"),
                                               HasSubstr("stopped")));
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
  EXPECT_GT(outcomes.at("OK"), 20u);
}

TEST(DrainTest, RollingRestartOfThePrefillPoolNeedsNoRetryOfClients) {
  RestartUnderLoad(&Pools::prefill, /*retries=*/0);
}

TEST(DrainTest, RollingRestartOfTheDecodePoolLosesNoRequest) {
  RestartUnderLoad(&Pools::decode, /*retries=*/3);
}

TEST(DrainTest, RunningStreamsEndAndNewRequestsAreRefused) {
  Pools pools({"--drain_timeout=1m"});  // as long as a client waits
  ASSERT_TRUE(pools.WaitUntilReady());
  Server& decode = pools.decode(0);
  Readers readers(decode.address(), 16);
  decode.process.Signal(SIGTERM);
  EXPECT_TRUE(BecomesUnready(decode));
  GenerationClient client(decode.address(), {.retries = 0});
  EXPECT_TRUE(Eventually(
      [&client] { return absl::IsUnavailable(client.GetModelInfo(absl::Seconds(1)).status()); },
      absl::Seconds(3)));
  absl::Duration longest_after_output;
  for (const Readers::End& end : readers.WaitForEnd()) {
    EXPECT_EQ(end.status, absl::OkStatus());
    longest_after_output = std::max(longest_after_output, end.after_output);
  }
  // Time to read what came before: with the last call's end the connection goes.
  EXPECT_GT(longest_after_output, absl::Milliseconds(150));
  EXPECT_EQ(decode.process.Wait(), 0) << decode.process.Errors();
}

TEST(DrainTest, WaitIsBoundedAndWhatIsLeftIsToldToComeAgain) {
  Pools pools({"--drain_timeout=20ms"});
  ASSERT_TRUE(pools.WaitUntilReady());
  Server& decode = pools.decode(0);
  Readers readers(decode.address(), 16);
  const absl::Time begun = MonotonicNow();
  decode.process.Signal(SIGTERM);
  EXPECT_EQ(decode.process.Wait(), 0) << decode.process.Errors();
  EXPECT_LT(MonotonicNow() - begun, absl::Seconds(8));
  EXPECT_THAT(decode.process.Errors(), HasSubstr("did not end within 20ms"));
  for (const Readers::End& end : readers.WaitForEnd()) {
    EXPECT_TRUE(absl::IsUnavailable(end.status)) << end.status;
    EXPECT_THAT(std::string(end.status.message()), StartsWith("the server shuts down"));
    EXPECT_THAT(std::string(end.status.message()), HasSubstr("send the request again"));
  }
}

TEST(DrainTest, ATerminalThatClosesDrainsAndUserSignalsAreIgnored) {
  signal(SIGHUP, SIG_DFL);  // which children inherit; ignored where this runs under nohup
  Pools pools({"--drain_timeout=1m"});
  ASSERT_TRUE(pools.WaitUntilReady());
  for (Server* server : {&pools.decode(0), &pools.prefill(0)}) {
    server->process.Signal(SIGUSR1);
    server->process.Signal(SIGUSR2);
    EXPECT_EQ(HttpGet(server->admin_port, "/readyz"), "ok\n");
    server->process.Signal(SIGHUP);
    EXPECT_EQ(server->process.Wait(), 0) << server->process.Errors();
    EXPECT_THAT(server->process.Errors(), AllOf(HasSubstr("draining"), HasSubstr("stopped")));
  }
}

TEST(DrainTest, UnderNohupATerminalThatClosesIsNothing) {
  signal(SIGHUP, SIG_IGN);  // as nohup does; children inherit it
  Server server("kvship-prefill", KVSHIP_GOLDENS "/models/llama", {"--threads=1"});
  signal(SIGHUP, SIG_DFL);
  ASSERT_TRUE(Eventually([&] { return HttpGet(server.admin_port, "/readyz") == "ok\n"; }));
  server.process.Signal(SIGHUP);
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(HttpGet(server.admin_port, "/readyz"), "ok\n");
}

}  // namespace
}  // namespace kvship
