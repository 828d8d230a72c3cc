// The client against a server in this process that says what a test wants.
#include "client/generation_client.h"

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "rpc/errors.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Each call gives the next script's outputs, then its status; the last script goes on for ever.
struct Script {
  std::vector<std::string> outputs;
  absl::Status end;
  bool hangs = false;  // until the call is cancelled
};

class ScriptedService final : public v1::GenerationService::Service {
 public:
  explicit ScriptedService(std::vector<Script> scripts) : scripts_(std::move(scripts)) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    const size_t call = num_calls++;
    {
      std::lock_guard lock(mutex_);
      peers_.insert(context->peer());
    }
    const Script& script = scripts_[std::min(call, scripts_.size() - 1)];
    v1::GenerateResponse response;
    for (const std::string& text : script.outputs) {
      response.mutable_output()->set_text(text);
      writer->Write(response);
    }
    while (script.hangs && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    response.mutable_report()->mutable_usage()->set_output_tokens(7);
    if (script.end.ok()) writer->Write(response);
    return ToGrpcStatus(script.end);
  }

  std::atomic<size_t> num_calls = 0;

  size_t num_peers() const {
    std::lock_guard lock(mutex_);
    return peers_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::set<std::string> peers_;  // connections by which calls came
  const std::vector<Script> scripts_;
};

class ScriptedServer {
 public:
  explicit ScriptedServer(std::vector<Script> scripts) : service(std::move(scripts)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service);
    server_ = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }

  absl::StatusOr<v1::GenerateReport> Ask(absl::Duration timeout = absl::Seconds(20)) {
    return GenerationClient(address).Generate(
        {}, timeout,
        [this](const v1::GenerateResponse& response) { text += response.output().text(); });
  }

  ScriptedService service;
  std::string address;
  std::string text;

 private:
  std::unique_ptr<grpc::Server> server_;
};

const absl::Status kGone = absl::UnavailableError("no prefill node");
const Script kAnswer = {.outputs = {"a", "b"}, .end = absl::OkStatus()};

TEST(GenerationClient, AsksAgainWhereNoServerTookTheCall) {
  const absl::Status let_go = absl::CancelledError("");  // as a server closes its port
  ScriptedServer server({{.outputs = {}, .end = kGone}, {.outputs = {}, .end = let_go}, kAnswer});
  const auto report = server.Ask();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->usage().output_tokens(), 7u);
  EXPECT_EQ(server.text, "ab");
  EXPECT_EQ(server.service.num_calls, 3u);
}

TEST(GenerationClient, CallsTakeItsConnectionsInTurn) {
  ScriptedServer server({{{}, absl::OkStatus()}});
  for (const size_t connections : {size_t{1}, size_t{3}}) {
    const size_t before = server.service.num_peers();
    GenerationClient client(server.address, {.connections = connections});
    for (int i = 0; i < 6; ++i) {
      const auto report =
          client.Generate({}, absl::Seconds(20), [](const v1::GenerateResponse&) {});
      EXPECT_TRUE(report.ok()) << report.status();
    }
    EXPECT_EQ(server.service.num_peers() - before, connections);
  }
}

TEST(GenerationClient, GivesUpAfterItsRetries) {
  ScriptedServer server({{.outputs = {}, .end = kGone}});
  EXPECT_EQ(server.Ask().status().message(), kGone.message());
  EXPECT_EQ(server.service.num_calls, GenerationClient::Options().retries + 1);
}

TEST(GenerationClient, DoesNotAskAgainOnceThereWasOutput) {
  ScriptedServer server({{.outputs = {"a"}, .end = kGone}, kAnswer});
  EXPECT_TRUE(absl::IsUnavailable(server.Ask().status()));
  EXPECT_EQ(server.service.num_calls, 1u);
}

TEST(GenerationClient, WrongRequestsComeBackWithTheirField) {
  ScriptedServer server(
      {{.outputs = {}, .end = WithField(absl::InvalidArgumentError("stop is empty"), "stop[0]")}});
  const absl::Status status = server.Ask().status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(FieldOf(status), "stop[0]");
  EXPECT_EQ(server.service.num_calls, 1u);
}

TEST(GenerationClient, WaitsAsLongAsAServerWithoutRoomSays) {
  const auto full = absl::ResourceExhaustedError("no room");
  ScriptedServer server(
      {{.outputs = {}, .end = WithRetryDelay(full, absl::Milliseconds(150))}, kAnswer});
  const absl::Time begin = MonotonicNow();
  EXPECT_TRUE(server.Ask().ok());
  EXPECT_GE(MonotonicNow() - begin, absl::Milliseconds(150));
}

TEST(GenerationClient, DoesNotWaitPastItsDeadline) {
  const auto full = absl::ResourceExhaustedError("no room");
  ScriptedServer server(
      {{.outputs = {}, .end = WithRetryDelay(full, absl::Seconds(100))}, kAnswer});
  const absl::Time begin = MonotonicNow();
  const absl::Status status = server.Ask(absl::Seconds(50)).status();
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(100)) << status;
  EXPECT_LT(MonotonicNow() - begin, absl::Seconds(40));
}

TEST(GenerationClient, DeadlineEndsACallInTheMiddle) {
  ScriptedServer server({{.outputs = {"a"}, .end = absl::OkStatus(), .hangs = true}});
  const absl::Status status = server.Ask(absl::Milliseconds(300)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_EQ(status.message(), "the timeout of 300ms has passed");
}

TEST(GenerationClient, StopCancelsTheCallOnTheServer) {
  ScriptedServer server({{.outputs = {"a"}, .end = absl::OkStatus(), .hangs = true}});
  std::stop_source stop;
  const auto report =
      GenerationClient(server.address)
          .Generate(
              {}, absl::InfiniteDuration(),
              [&](const v1::GenerateResponse&) { stop.request_stop(); }, stop.get_token());
  EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
  EXPECT_EQ(server.service.num_calls, 1u);
}

TEST(GenerationClient, StopEndsTheWaitForAnotherAttempt) {
  const auto full = absl::ResourceExhaustedError("no room");
  ScriptedServer server({{.outputs = {}, .end = WithRetryDelay(full, absl::Hours(1))}});
  std::stop_source stop;
  std::thread stopper([&] {
    while (server.service.num_calls == 0) absl::SleepFor(absl::Milliseconds(1));
    stop.request_stop();
  });
  const auto report = GenerationClient(server.address)
                          .Generate(
                              {}, absl::InfiniteDuration(), [](const auto&) {}, stop.get_token());
  stopper.join();
  EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
}

TEST(GenerationClient, TokensThatCannotBeSentAreRefusedWithoutBeingQuoted) {
  ScriptedServer server({kAnswer});
  for (const std::string token : {"gr\xc3\xbc", "one\ntwo", "\x7f"}) {
    GenerationClient client(server.address, {.api_token = token});
    const absl::Status status = client.Generate({}, absl::Seconds(20), [](const auto&) {}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(token)));
    EXPECT_TRUE(absl::IsInvalidArgument(client.GetModelInfo(absl::Seconds(20)).status()));
  }
  EXPECT_EQ(server.service.num_calls, 0u);
  const absl::Status status = CheckApiToken("the file 'x'", "ab\xc3");
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("the API token of the file 'x' has byte 0xC3 at offset 2; wanted printable"));
  EXPECT_TRUE(CheckApiToken("", "").ok());
  EXPECT_TRUE(CheckApiToken("", "aZ09-._~+/=! b").ok());
}

TEST(GenerationClient, WantOfRoomThatGrpcItselfTellsOfIsNoTimeout) {
  const GenerationClient client("127.0.0.1:1");
  const auto end_of = [&](grpc::StatusCode code, const char* message) {
    return client.EndOf(grpc::Status(code, message), absl::Seconds(1), /*stopped=*/false);
  };
  EXPECT_EQ(end_of(grpc::StatusCode::RESOURCE_EXHAUSTED, "quota"),
            absl::ResourceExhaustedError("the call to the server 127.0.0.1:1 failed: quota"));
  EXPECT_EQ(end_of(grpc::StatusCode::INTERNAL, ""),
            absl::InternalError("the call to the server 127.0.0.1:1 failed: INTERNAL"));
}

TEST(GenerationClient, AServerWithoutTheServiceIsNamed) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  ScriptedService elsewhere({kAnswer});
  builder.RegisterService("another-authority", &elsewhere);
  const auto server = builder.BuildAndStart();
  const std::string address = absl::StrCat("127.0.0.1:", port);
  const absl::Status status =
      GenerationClient(address).Generate({}, absl::Seconds(20), [](const auto&) {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(address), HasSubstr("kvship.v1.GenerationService")));
}

TEST(GenerationClient, AMessageThatIsTooLargeIsNoWantOfRoom) {
  ScriptedServer server({kAnswer});
  v1::GenerateRequest request;
  request.set_prompt(std::string(5 << 20, 'x'));  // gRPC's servers take 4 MiB by default
  const absl::Time begin = MonotonicNow();
  const absl::Status status = GenerationClient(server.address, {.retries = 20})
                                  .Generate(request, absl::Seconds(60), [](const auto&) {})
                                  .status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("too large"));
  EXPECT_LT(MonotonicNow() - begin, absl::Seconds(15))
      << "no attempt was made again: each would wait a second";
}

TEST(GenerationClient, NobodyThereIsNamed) {
  const auto report = GenerationClient("127.0.0.1:1", {.retries = 0})
                          .Generate({}, absl::Seconds(20), [](const auto&) {});
  EXPECT_TRUE(absl::IsUnavailable(report.status()));
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("127.0.0.1:1 cannot be reached"));
}

}  // namespace
}  // namespace kvship
