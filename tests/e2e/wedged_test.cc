// Processes whose working thread stands still: they say so, others do their work, and when it goes
// on they serve again.
#include <gmock/gmock.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "tests/e2e/stopped_thread.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"

namespace kvship {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr char kStuck[] = "--stuck_timeout=1s";
// On a busy machine; a second is what the flag says.
constexpr absl::Duration kMostNotice = absl::Seconds(10);

// The answer of gRPC's health service; empty if there is none. Of a message with one field, its
// value: 1 is SERVING, 2 NOT_SERVING.
std::optional<int> Health(const Server& server) {
  grpc::GenericStub stub(grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(WallNow() + absl::Seconds(10)));
  grpc::CompletionQueue queue;
  const grpc::Slice nothing("");
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                          grpc::ByteBuffer(&nothing, 1), &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  void* tag = nullptr;
  bool ok = false;
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  grpc::Slice bytes;
  if (!queue.Next(&tag, &ok) || !status.ok() || !response.DumpToSingleSlice(&bytes).ok() ||
      bytes.size() != 2) {
    return std::nullopt;
  }
  return bytes.begin()[1];
}

// Why the server is not ready; empty if it is, or does not answer at once.
std::string WhyNotReady(const Server& server) {
  httplib::Client admin("127.0.0.1", server.admin_port);
  admin.set_read_timeout(5);
  const httplib::Result result = admin.Get("/readyz");
  return result && result->status == 503 ? result->body : "";
}

// Waits until the server says for that reason that it is not ready, on both ports. How long it
// took.
absl::Duration BecomesUnready(const Server& server, const std::string& reason) {
  const absl::Time begin = MonotonicNow();
  std::string said;
  EXPECT_TRUE(Eventually(
      [&] {
        said = WhyNotReady(server);
        return !said.empty();
      },
      kMostNotice));
  const absl::Duration taken = MonotonicNow() - begin;
  EXPECT_THAT(said, HasSubstr(reason));
  EXPECT_TRUE(Eventually([&] { return Health(server) == 2; }, kMostNotice));
  return taken;
}

// Likewise, ready.
absl::Duration BecomesReady(const Server& server) {
  const absl::Time begin = MonotonicNow();
  EXPECT_TRUE(
      Eventually([&] { return !HttpGet(server.admin_port, "/readyz").empty(); }, kMostNotice));
  const absl::Duration taken = MonotonicNow() - begin;
  EXPECT_TRUE(Eventually([&] { return Health(server) == 1; }, kMostNotice));
  return taken;
}

TEST(WedgedTest, ADecodeLoopThatStandsStillMakesItsNodeUnreadyUntilItGoesOn) {
  Server prefill("kvship-prefill", kModel, {"--threads=1"});
  Server decode("kvship-decode", kModel,
                {"--threads=1", absl::StrCat("--prefill=", prefill.address()), kStuck});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  std::optional<StoppedThread> wedged(std::in_place, decode.process.pid(), "decode_loop");
  if (wedged->is_forbidden()) GTEST_SKIP() << "no thread of another process may be stopped here";
  ASSERT_TRUE(wedged->is_stopped());
  Stream stream(decode, TinyRequest(20, 100));
  const absl::Duration noticed =
      BecomesUnready(decode, "the decode batch has been in one step for");
  const auto is_healthy = [&] { return !HttpGet(decode.admin_port, "/healthz").empty(); };
  EXPECT_TRUE(is_healthy()) << "it may only be slow";
  EXPECT_TRUE(Eventually([&] { return !is_healthy(); }, absl::Seconds(20)))
      << "after five times as long it wants a new process";
  wedged.reset();
  const absl::Duration ready = BecomesReady(decode);
  EXPECT_EQ(stream.WaitForEnd(), absl::OkStatus());
  std::cout << absl::StrFormat(
      "decode loop stopped: unready after %.1f s of 1 s allowed; ready %.0f ms after it went on\n",
      absl::ToDoubleSeconds(noticed), absl::ToDoubleMilliseconds(ready));
}

TEST(WedgedTest, PromptsGoToAnotherNodeThanOneWhoseEngineStandsStillAndLeaveItForThat) {
  Server wedge("kvship-prefill", kModel, {"--threads=1", kStuck});
  Server other("kvship-prefill", kModel, {"--threads=1", kStuck});
  Server decode("kvship-decode", kModel,
                {"--threads=1", absl::StrCat("--prefill=", wedge.address(), ",", other.address())});
  ASSERT_TRUE(wedge.WaitUntilReady() && other.WaitUntilReady() && decode.WaitUntilReady());
  ASSERT_TRUE(Eventually([&] { return decode.num_serving_nodes() == 2; }));
  std::optional<StoppedThread> wedged(std::in_place, wedge.process.pid(), "prefill_engine");
  if (wedged->is_forbidden()) GTEST_SKIP() << "no thread of another process may be stopped here";
  ASSERT_TRUE(wedged->is_stopped());
  std::vector<std::unique_ptr<Stream>> early;
  for (int i = 0; i < 20; ++i) {
    early.push_back(std::make_unique<Stream>(decode, TinyRequest(50, 5)));
  }
  const absl::Duration noticed = BecomesUnready(wedge, "the engine has been in one step for");
  ASSERT_TRUE(Eventually([&] { return decode.num_serving_nodes() == 1; }));
  absl::Duration longest;
  for (const auto& stream : early) {
    EXPECT_EQ(stream->WaitForEnd(), absl::OkStatus());
    longest = std::max(longest, stream->total());
  }
  const double num_moved = decode.metric("kvship_decode_prefill_retries_total{reason=\"lost\"}");
  EXPECT_GT(num_moved, 0);
  EXPECT_THAT(decode.process.Errors(),
              ContainsRegex(absl::StrCat("cannot serve: .* request_id=\"[^\"]+\" node=\"",
                                         wedge.address(), "\"")));
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(Stream(decode, TinyRequest(50, 5)).WaitForEnd(), absl::OkStatus());
  }
  EXPECT_EQ(decode.metric("kvship_decode_prefill_retries_total{reason=\"lost\"}"), num_moved)
      << "none was sent there";
  EXPECT_EQ(decode.metric("kvship_decode_prefill_ejections_total"), 0) << "it said it itself";
  wedged.reset();
  const absl::Duration ready = BecomesReady(wedge);
  EXPECT_TRUE(Eventually([&] { return decode.num_serving_nodes() == 2; }));
  std::cout << absl::StrFormat(
      "prefill engine stopped: unready after %.1f s of 1 s allowed; of 20 prompts before that %.0f "
      "left it for the other node, the last answered after %.1f s, 10 of 10 after it went there; "
      "ready %.0f ms after it went on\n",
      absl::ToDoubleSeconds(noticed), num_moved, absl::ToDoubleSeconds(longest),
      absl::ToDoubleMilliseconds(ready));
}

// A server that is told to stop while its working thread stands still and nobody waits for it.
class WedgedStopTest : public ::testing::Test {
 protected:
  struct Case {
    const char* program;
    const char* thread;
  };
  static constexpr Case kCases[] = {{"kvship-prefill", "prefill_engine"},
                                    {"kvship-decode", "decode_loop"}};

  static bool Says(const Server& server, const std::string& line) {
    return Eventually([&] { return absl::StrContains(server.process.Errors(), line); });
  }
};

TEST_F(WedgedStopTest, ItEndsSoonAfterTheDrainTimeoutAndLeavesTheStepBehind) {
  for (const auto& [program, thread] : kCases) {
    Server server(program, kModel, {"--threads=1", "--drain_timeout=100ms"});
    ASSERT_TRUE(Says(server, "serving llama")) << program;
    std::optional<StoppedThread> wedged(std::in_place, server.pid(), thread);
    if (wedged->is_forbidden()) GTEST_SKIP() << "no thread of another process may be stopped here";
    ASSERT_TRUE(wedged->is_stopped());
    server.process.Signal(SIGTERM);
    EXPECT_TRUE(Says(server, "did not end within --drain_timeout, 100ms, and")) << program;
    wedged.reset();
    EXPECT_EQ(server.process.Wait(), 1) << program;
    EXPECT_THAT(server.process.Errors(), Not(HasSubstr("stopped"))) << program;
  }
}

TEST_F(WedgedStopTest, ASecondSignalEndsItAtOnce) {
  for (const auto& [program, thread] : kCases) {
    Server server(program, kModel, {"--threads=1", "--drain_timeout=1h"});
    ASSERT_TRUE(Says(server, "serving llama")) << program;
    std::optional<StoppedThread> wedged(std::in_place, server.pid(), thread);
    if (wedged->is_forbidden()) GTEST_SKIP() << "no thread of another process may be stopped here";
    ASSERT_TRUE(wedged->is_stopped());
    server.process.Signal(SIGTERM);
    ASSERT_TRUE(Says(server, "draining")) << program;
    server.process.Signal(SIGINT);
    absl::SleepFor(absl::Milliseconds(400));
    server.process.Signal(SIGHUP);
    absl::SleepFor(absl::Milliseconds(100));
    EXPECT_THAT(server.process.Errors(), Not(HasSubstr("a second signal came")))
        << "Ctrl-C may come twice at once, and a terminal that closes sends SIGHUP twice";
    server.process.Signal(SIGTERM);
    EXPECT_TRUE(Says(server, "a second signal came")) << program;
    wedged.reset();
    EXPECT_EQ(server.process.Wait(), 1) << program;
    EXPECT_THAT(server.process.Errors(), Not(HasSubstr("stopped"))) << program;
  }
}

}  // namespace
}  // namespace kvship
