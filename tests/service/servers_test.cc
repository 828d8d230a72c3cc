#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "service/admin_server.h"
#include "service/host_port.h"
#include "service/rpc_server.h"
#include "tests/eventually.h"
#include "tests/sanitized.h"
#include "tests/service/no_thread_left.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

absl::Status Fine() { return absl::OkStatus(); }

TEST(ListenAddress, HostAndPortAreRead) {
  EXPECT_EQ(ParseListenAddress("listen", "10.0.0.1:80")->host, "10.0.0.1");
  EXPECT_EQ(ParseListenAddress("listen", "10.0.0.1:80")->port, 80);
  EXPECT_EQ(ParseListenAddress("listen", ":80")->host, "");
  EXPECT_EQ(ParseListenAddress("listen", "[::1]:80")->host, "::1");
}

TEST(ListenAddress, OtherTextsAreRefusedByTheFlagsName) {
  for (const char* text : {"", "host", "host:", "host:x", "host:-1", "host:65536", "host: 1",
                           "::1:80", "[::1:80", "a b:80", "a]:80"}) {
    const absl::Status status = ParseListenAddress("admin", text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("--admin is '" + std::string(text)));
  }
}

TEST(ListenAddress, WhetherOtherMachinesReachItIsTold) {
  for (const char* text : {"127.0.0.1", "127.1.2.3:80", "[::1]:80", "[::1]", "LocalHost:80"}) {
    EXPECT_TRUE(IsLoopback(text)) << text;
  }
  for (const char* text : {"", ":80", "10.0.0.1:80", "[::]:80", "::1", "localhost.evil:80"}) {
    EXPECT_FALSE(IsLoopback(text)) << text;
  }
}

TEST(Readiness, IsNotReadyBeforeAndAfterServing) {
  Readiness readiness;
  EXPECT_THAT(std::string(readiness.Check().message()), HasSubstr("starting"));
  readiness.StartServing(Fine);
  EXPECT_EQ(readiness.Check(), absl::OkStatus());
  readiness.StartDraining();
  EXPECT_THAT(std::string(readiness.Check().message()), HasSubstr("shutting down"));
  readiness.StartServing(Fine);
  EXPECT_FALSE(readiness.Check().ok());
}

TEST(Readiness, TellsWhatTheCheckSays) {
  Readiness readiness;
  readiness.StartServing([] { return absl::UnavailableError("stuck"); });
  EXPECT_EQ(readiness.Check(), absl::UnavailableError("stuck"));
}

TEST(RpcServer, RefusesBoundsThatGrpcCannotHold) {
  const Readiness readiness;
  const auto start = [&](size_t max_message_bytes, size_t max_streams) {
    RpcServer::Options options;
    options.listen = "127.0.0.1:0";
    options.max_message_bytes = max_message_bytes;
    options.max_streams = max_streams;
    return RpcServer::Start(options, {}, {}, readiness).status();
  };
  const auto refusal = [](const char* message) { return absl::InvalidArgumentError(message); };
  EXPECT_EQ(start(0, 1), refusal("max_message_bytes is 0; wanted 1 to 2147483647"));
  EXPECT_EQ(start(size_t{1} << 32, 1),
            refusal("max_message_bytes is 4294967296; wanted 1 to 2147483647"));
  EXPECT_EQ(start(1, 0), refusal("max_streams is 0; wanted 1 to 2147483647"));
  EXPECT_EQ(start(1, UINT32_MAX), refusal("max_streams is 4294967295; wanted 1 to 2147483647"));
}

TEST(RpcServer, ItEndsThoughTheSystemHasNoThreadLeft) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  const Readiness readiness;
  RpcServer::Options options;
  options.listen = "127.0.0.1:0";
  const auto server = *RpcServer::Start(options, {}, {}, readiness);
  const NoThreadLeft none;
  server->Shutdown(absl::ZeroDuration());
}

TEST(RpcServerDeathTest, WithoutThreadsForGrpcItEndsWithASentenceAndExitCodeOne) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Readiness readiness;
  RpcServer::Options options;
  options.listen = "127.0.0.1:0";
  for (const int num_threads : {0, 1, 2, 6, 11}) {
    const auto start = [&] {
      StartLog("kvship-test", LogFormat::kText);
      const NoThreadLeft none(num_threads);
      (void)RpcServer::Start(options, {}, {}, readiness);
    };
    EXPECT_EXIT(start(), ::testing::ExitedWithCode(1), "the system has no thread left for gRPC: ")
        << num_threads;
  }
}

TEST(AdminServerDeathTest, WithoutTwoThreadsItEndsWithASentenceAndExitCodeOne) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const int num_threads : {0, 1}) {
    const auto start = [num_threads] {
      StartLog("kvship-test", LogFormat::kText);
      prometheus::Registry registry;
      const Readiness readiness;
      const NoThreadLeft none(num_threads);
      (void)AdminServer::Start("kvship-test", "127.0.0.1:0", {&registry}, readiness);
    };
    EXPECT_EXIT(
        start(), ::testing::ExitedWithCode(1),
        "the system has no thread left for the admin port: .*wanted fewer --threads, or a limit");
  }
}

class AdminServerTest : public ::testing::Test {
 protected:
  AdminServerTest()
      : server_(*AdminServer::Start("kvship-test", "127.0.0.1:0", {&registry_}, readiness_)) {}
  httplib::Result Get(const char* path) {
    httplib::Client client("127.0.0.1", server_->port());
    return client.Get(path);
  }
  // The socket of a connection.
  int Connect() {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return connection;
  }

  prometheus::Registry registry_;
  Readiness readiness_;
  std::unique_ptr<AdminServer> server_;
};

// Not where IPv6 is switched off.
bool HasIpv6Loopback() {
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  const int probe = socket(AF_INET6, SOCK_STREAM, 0);
  const bool has = bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(probe);
  return has;
}

TEST_F(AdminServerTest, WithoutAHostItListensOnAllInterfaces) {
  server_ = *AdminServer::Start("kvship-test", ":0", {&registry_}, readiness_);
  EXPECT_EQ(Get("/healthz")->status, 200);
  if (!HasIpv6Loopback()) return;
  const auto answer = httplib::Client("::1", server_->port()).Get("/healthz");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
}

TEST_F(AdminServerTest, ReadyzFollowsReadiness) {
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_THAT(Get("/readyz")->body, HasSubstr("starting"));
  EXPECT_EQ(Get("/healthz")->status, 200);
  readiness_.StartServing(Fine);
  EXPECT_EQ(Get("/readyz")->status, 200);
  readiness_.StartDraining();
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_EQ(Get("/healthz")->status, 200);
}

TEST_F(AdminServerTest, HealthzFailsOnlyWhereANewProcessHelps) {
  absl::Status status = absl::UnavailableError("in one step for 60 s");
  readiness_.StartServing([&status] { return status; });
  EXPECT_EQ(Get("/healthz")->status, 200);
  status = absl::InternalError("the GPU is lost");
  EXPECT_EQ(Get("/healthz")->status, 503);
  EXPECT_EQ(Get("/healthz")->body, "the GPU is lost\n");
  EXPECT_EQ(Get("/readyz")->status, 503);
}

TEST_F(AdminServerTest, MetricsAreInPrometheusForm) {
  prometheus::BuildCounter()
      .Name("kvship_test_total")
      .Help("A test.")
      .Register(registry_)
      .Add({})
      .Increment(3);
  EXPECT_THAT(Get("/metrics")->body, HasSubstr("# TYPE kvship_test_total counter"));
  EXPECT_THAT(Get("/metrics")->body, HasSubstr("\nkvship_test_total 3"));
}

TEST_F(AdminServerTest, StatusHasWhatTheProgramTells) {
  EXPECT_THAT(Get("/status.json")->body, HasSubstr(R"("program":"kvship-test","ready":false)"));
  server_->ShowStatus([] { return nlohmann::ordered_json{{"answer", 42}}; });
  EXPECT_THAT(Get("/status.json")->body, HasSubstr(R"("answer":42)"));
  server_->ShowStatus(nullptr);
  EXPECT_THAT(Get("/status.json")->body, Not(HasSubstr("answer")));
}

TEST_F(AdminServerTest, TheFirstPageAsksNobodyElse) {
  const auto page = Get("/");
  EXPECT_THAT(page->body, HasSubstr("fetch(\"/status.json\""));
  EXPECT_THAT(page->body, Not(HasSubstr("://")));
  EXPECT_THAT(page->get_header_value("Content-Security-Policy"), HasSubstr("default-src 'none'"));
  EXPECT_EQ(Get("/other")->status, 404);
}

TEST_F(AdminServerTest, ConnectionsWithoutARequestHoldUpNoProbe) {
  std::vector<std::unique_ptr<httplib::Client>> idle;
  for (int i = 0; i < 8; ++i) {
    idle.push_back(std::make_unique<httplib::Client>("127.0.0.1", server_->port()));
    idle.back()->set_keep_alive(true);
    EXPECT_EQ(idle.back()->Get("/healthz")->status, 200);
  }
  std::vector<int> silent;  // with them many more than the port serves at a time
  for (int i = 0; i < 100; ++i) silent.push_back(Connect());
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
  for (const int connection : silent) close(connection);
}

TEST_F(AdminServerTest, HalvesOfRequestsHoldUpNoProbe) {
  std::vector<int> halves;
  for (int i = 0; i < 300; ++i) {  // many more than the port serves at a time
    halves.push_back(Connect());
    ASSERT_EQ(write(halves.back(), "GET /", 5), 5);
  }
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  for (const int half : halves) close(half);
}

TEST_F(AdminServerTest, HalvesOfRequestsHoldUpNoProbeWhereTheSystemHasNoThreadLeft) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make threads in a way of their own";
  const NoThreadLeft none;
  const int silent = Connect();
  const int half = Connect();
  ASSERT_EQ(write(half, "GET /", 5), 5);
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(3));
  close(silent);
  close(half);
}

// Whether the server closes the connection, on which it is sent `bytes` every 100 ms meanwhile.
bool IsClosedThoughItGets(const std::string& bytes, int connection) {
  char answer[256];
  const absl::Time give_up = absl::Now() + absl::Seconds(5);
  while (absl::Now() < give_up) {
    if (send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return true;
    const ssize_t received = recv(connection, answer, sizeof(answer), MSG_DONTWAIT);
    if (received == 0 || (received < 0 && errno != EAGAIN)) return true;
    absl::SleepFor(absl::Milliseconds(100));
  }
  return false;
}

TEST_F(AdminServerTest, ARequestThatTricklesInHoldsItsConnectionForSecondsOnly) {
  const int connection = Connect();
  ASSERT_EQ(write(connection, "GET /healthz HTTP/1.1\r\nX: ", 26), 26);
  EXPECT_TRUE(IsClosedThoughItGets("x", connection));
  close(connection);
}

TEST_F(AdminServerTest, ARequestWithoutEndIsNotReadToItsEnd) {
  const int connection = Connect();
  ASSERT_EQ(write(connection, "GET /", 5), 5);
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(IsClosedThoughItGets(std::string(16 << 10, 'x'), connection));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
  close(connection);
}

class RpcServerTest : public ::testing::Test {
 protected:
  RpcServerTest() {
    server_ = *StartOn("127.0.0.1:0");
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                   grpc::InsecureChannelCredentials());
  }

  absl::StatusOr<std::unique_ptr<RpcServer>> StartOn(const std::string& listen) {
    RpcServer::Options options;
    options.listen = listen;
    return RpcServer::Start(options, {}, {"kvship.v1.TestService"}, readiness_);
  }

  // HealthCheckResponse.status for a service: 1 serving, 2 not serving; -1 for an error.
  int Health(const std::string& service) {
    std::string request;
    if (!service.empty()) request = "\x0a" + std::string(1, char(service.size())) + service;
    const grpc::Slice slice(request);
    const grpc::ByteBuffer buffer(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    grpc::GenericStub stub(channel_);
    grpc::CompletionQueue queue;
    const auto call =
        stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", buffer, &queue);
    grpc::Status status;
    void* tag = nullptr;
    bool ok = false;
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    if (!queue.Next(&tag, &ok) || !status.ok()) return -1;
    grpc::Slice flat;
    if (!response.DumpToSingleSlice(&flat).ok() || flat.size() != 2) return -1;
    return flat.begin()[1];
  }
  bool HealthBecomes(const std::string& service, int wanted) {
    return Eventually([&] { return Health(service) == wanted; }, absl::Seconds(10));
  }

  Readiness readiness_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(RpcServerTest, HealthFollowsReadinessPerService) {
  EXPECT_TRUE(HealthBecomes("", 2));
  readiness_.StartServing(Fine);
  EXPECT_TRUE(HealthBecomes("kvship.v1.TestService", 1));
  EXPECT_TRUE(HealthBecomes("", 1));
  EXPECT_EQ(Health("kvship.v1.Other"), -1);
  readiness_.StartDraining();
  EXPECT_TRUE(HealthBecomes("kvship.v1.TestService", 2));
}

TEST_F(RpcServerTest, ReflectionIsServed) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  grpc::GenericStub stub(channel_);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice slice(std::string("\x3a\x00", 2));  // list_services
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer response;
  call->Read(&response, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice flat;
  ASSERT_TRUE(response.DumpToSingleSlice(&flat).ok());
  EXPECT_THAT(std::string(flat.begin(), flat.end()), HasSubstr("grpc.health.v1.Health"));
  context.TryCancel();
}

TEST_F(RpcServerTest, APortInUseIsASentence) {
  const absl::Status status = StartOn("127.0.0.1:" + std::to_string(server_->port())).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the port is in use"));
}

}  // namespace
}  // namespace kvship
