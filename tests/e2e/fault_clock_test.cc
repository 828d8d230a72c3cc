// Servers whose wall clock jumps by hours, forth and back, while they serve.
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/fault_shell.h"
#include "tests/sanitized.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr int64_t kHour = 3600;

// A wall clock that servers started after `preload_` see.
class JumpingClock : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "sanitizers want to be loaded first";
  }

  // All later times of the servers' wall clocks are that far from the true ones.
  void JumpTo(int64_t seconds) {
    jump_ = absl::Seconds(seconds);
    std::fstream file(jump_file_, std::ios::in | std::ios::out | std::ios::binary);
    file.write(reinterpret_cast<const char*>(&seconds), sizeof(seconds));
  }
  // Whether a server's wall clock has jumped. absl::Now(), which it tells, may be two seconds late.
  bool HasJumped(const ShellServer& server) const {
    return Eventually([&] {
      const std::string status = HttpGet(server.admin_port, "/status.json");
      if (status.empty()) return false;
      absl::Time time;
      EXPECT_TRUE(absl::ParseTime(absl::RFC3339_sec,
                                  nlohmann::json::parse(status)["time"].get<std::string>(), &time,
                                  /*err=*/nullptr));
      return absl::AbsDuration(time - (WallNow() + jump_)) < absl::Minutes(1);
    });
  }

  absl::Duration jump_;
  const TempFolder folder_;
  const std::string jump_file_ = folder_.Write("jump", std::string(8, '\0'));
  const std::string preload_ = absl::StrCat(
      "LD_PRELOAD=" KVSHIP_BIN "/libkvship_fault_clock.so KVSHIP_CLOCK_JUMP=", jump_file_,
      "; export LD_PRELOAD KVSHIP_CLOCK_JUMP;");
};

class FaultClockTest : public JumpingClock {
 protected:
  void SetUp() override {
    JumpingClock::SetUp();
    if (IsSkipped()) return;
    ASSERT_TRUE(prefill_.WaitUntilReady());
    ASSERT_TRUE(decode_.WaitUntilReady());
    ASSERT_EQ(requests_.Learn(client_), absl::OkStatus());
    rests_ = {AtRest(prefill_), AtRest(decode_)};
    served_ = nlohmann::json::parse(HttpGet(http_port_, "/v1/models"))["data"][0]["id"];
  }

  void ExpectNothingIsLeft() const {
    for (const AtRest& rest : rests_) EXPECT_EQ(rest.LeftOver(), "");
  }

  struct HttpAnswer {
    int status = 0;
    absl::Duration taken;
  };
  HttpAnswer AskOverHttp() const {
    httplib::Client client("127.0.0.1", http_port_);
    client.set_read_timeout(60);
    const absl::Time begin = MonotonicNow();
    const auto answer = client.Post(
        "/v1/completions",
        absl::StrCat(R"({"prompt":[1,2,3,4,5],"max_tokens":8,"ignore_eos":true,"model":")", served_,
                     "\"}"),
        "application/json");
    return {.status = answer ? answer->status : -1, .taken = MonotonicNow() - begin};
  }

  const int http_port_ = FreePort();
  std::string served_;  // the model's name
  ShellServer prefill_{preload_, "kvship-prefill", kModel, {"--threads=1"}};
  ShellServer decode_{preload_,
                      "kvship-decode",
                      kModel,
                      {"--threads=1", absl::StrCat("--http=127.0.0.1:", http_port_),
                       "--http_deadline=4s", absl::StrCat("--prefill=", prefill_.address())}};
  GenerationClient client_{decode_.address(), {.retries = 0}};
  CheckedRequests requests_;
  std::vector<AtRest> rests_;
};

TEST_F(FaultClockTest, RequestsDoNotNoticeThatItJumps) {
  for (const int64_t jump : {kHour, -kHour, 48 * kHour, int64_t{0}}) {
    std::thread client([this] {
      for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(requests_.Send(client_, i, absl::Seconds(20)), absl::OkStatus());
      }
    });
    absl::SleepFor(absl::Milliseconds(10));
    JumpTo(jump);
    client.join();
    EXPECT_EQ(AskOverHttp().status, 200);
    EXPECT_TRUE(HasJumped(decode_));
  }
  // What was measured meanwhile is what it took.
  const double seconds =
      Metric(decode_.admin_port, "kvship_decode_time_to_first_token_seconds_sum");
  EXPECT_GT(seconds, 0);
  EXPECT_LT(seconds, kHour);
  ExpectNothingIsLeft();
}

TEST_F(FaultClockTest, DeadlinesPassNeitherEarlierNorLater) {
  for (const int64_t jump : {kHour, -kHour}) {
    JumpTo(0);
    // Longer than nothing, shorter than the deadline.
    prefill_.Signal(SIGSTOP);
    HttpAnswer answer;
    std::thread client([&] { answer = AskOverHttp(); });
    absl::SleepFor(absl::Milliseconds(300));
    JumpTo(jump);
    absl::SleepFor(absl::Milliseconds(700));
    prefill_.Signal(SIGCONT);
    client.join();
    EXPECT_EQ(answer.status, 200);

    JumpTo(0);
    prefill_.Signal(SIGSTOP);
    client = std::thread([&] { answer = AskOverHttp(); });
    absl::SleepFor(absl::Milliseconds(300));
    JumpTo(jump);
    client.join();
    prefill_.Signal(SIGCONT);
    EXPECT_EQ(answer.status, 504);
    EXPECT_GE(answer.taken, absl::Seconds(3.9));
    EXPECT_LT(answer.taken, absl::Seconds(20));
    EXPECT_TRUE(Eventually([&] { return AskOverHttp().status == 200; }));
    EXPECT_TRUE(HasJumped(decode_));
  }
  ExpectNothingIsLeft();
}

// The prefill node waits 30 s for a stream's first message.
using LongFaultClockTest = FaultClockTest;

TEST_F(LongFaultClockTest, AStreamThatSaysNothingEndsNoLater) {
  const auto stub = v1::PrefillService::NewStub(
      grpc::CreateChannel(prefill_.address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Minutes(2)));
  const absl::Time begin = MonotonicNow();
  const auto stream = stub->Prefill(&context);
  absl::SleepFor(absl::Seconds(1));
  JumpTo(-kHour);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_GE(MonotonicNow() - begin, absl::Seconds(29));
  EXPECT_LT(MonotonicNow() - begin, absl::Seconds(60));
}

TEST_F(FaultClockTest, DrainingTakesNoLonger) {
  JumpTo(-kHour);
  for (ShellServer* server : {&decode_, &prefill_}) {
    EXPECT_TRUE(HasJumped(*server));
    server->Signal(SIGTERM);
    EXPECT_EQ(server->Wait(), 0);
  }
}

// A decode node whose wall clock is set back, so that gRPC's timers stand still there.
class FaultClockNodesTest : public JumpingClock {
 protected:
  void SetUp() override {
    JumpingClock::SetUp();
    if (IsSkipped()) return;
    for (const ShellServer& node : nodes_) ASSERT_TRUE(node.WaitUntilReady());
    ASSERT_TRUE(decode_.WaitUntilReady());
    ASSERT_TRUE(HasServing(2));
    ASSERT_EQ(requests_.Learn(client_), absl::OkStatus());
    rest_.emplace(decode_);
    JumpTo(-kHour);
    absl::SleepFor(absl::Seconds(2));  // until timers of before are due
    ASSERT_TRUE(HasJumped(decode_));
  }

  bool HasServing(int count) const {
    return Eventually([&] {
      return Metric(decode_.admin_port, "kvship_decode_prefill_nodes{standing=\"serving\"}") ==
             count;
    });
  }

  ShellServer nodes_[2] = {{"", "kvship-prefill", kModel, {"--threads=1"}},
                           {"", "kvship-prefill", kModel, {"--threads=1"}}};
  ShellServer decode_{preload_,
                      "kvship-decode",
                      kModel,
                      {"--threads=1", "--http=",
                       absl::StrCat("--prefill=", nodes_[0].address(), ",", nodes_[1].address())}};
  GenerationClient client_{decode_.address(), {.retries = 0}};
  CheckedRequests requests_;
  std::optional<AtRest> rest_;
};

TEST_F(FaultClockNodesTest, PromptsOnASilentNodeGoToAnother) {
  nodes_[0].Signal(SIGSTOP);
  std::vector<std::thread> clients;
  for (size_t i = 0; i < 4; ++i) {
    clients.emplace_back([this, i] {
      for (size_t k = 0; k < 4; ++k) {
        EXPECT_EQ(requests_.Send(client_, 4 * i + k, absl::Seconds(20)), absl::OkStatus());
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(Metric(decode_.admin_port, "kvship_decode_prefill_retries_total{reason=\"lost\"}"), 0);
  EXPECT_TRUE(HasServing(1));
  nodes_[0].Signal(SIGCONT);
  EXPECT_TRUE(HasServing(2));
  EXPECT_EQ(rest_->LeftOver(), "");
}

TEST_F(FaultClockNodesTest, ANodeThatIsGoneIsMissedAndOneThatReturnsIsFound) {
  nodes_[0].Signal(SIGKILL);
  EXPECT_EQ(nodes_[0].Wait(), -SIGKILL);
  EXPECT_TRUE(HasServing(1));
  EXPECT_EQ(requests_.Send(client_, 0, absl::Seconds(20)), absl::OkStatus());
  absl::SleepFor(absl::Seconds(2));  // a check waits for a connection, gRPC's backoff runs
  nodes_[0].Restart();
  EXPECT_TRUE(HasServing(2));
  EXPECT_EQ(rest_->LeftOver(), "");
}

}  // namespace
}  // namespace kvship
