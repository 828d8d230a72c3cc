#include "service/rpc_server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/start_thread.h"
#include "base/status_macros.h"
#include "service/host_port.h"
#include "service/option_range.h"

namespace kvship {
namespace {

// How far gRPC's health answer may lag behind Readiness.
constexpr std::chrono::milliseconds kHealthPeriod(200);

// Of one call, names and values; a call with more is refused.
constexpr int kMostMetadataBytes = 8 << 10;

// What gRPC holds for all connections together, above all of requests that have not arrived whole.
// Where it runs out, streams are ended.
constexpr size_t kMostBufferedBytes = size_t{1} << 30;

constexpr int kHandshakeTimeoutMs = 10'000;

// A connection ends after half an hour, and as long for its running calls, so that clients resolve
// names again and find new servers.
constexpr int kMaxConnectionAgeMs = 30 * 60 * 1000;

// What gRPC begins with, and a few for what it makes later. Where it does not get one, it aborts
// the process, or it serves nothing without a word.
size_t NumGrpcThreads() { return 8 + 2 * std::clamp(std::thread::hardware_concurrency(), 2u, 16u); }

void SetConnectionArguments(const RpcServer::Options& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder->SetMaxSendMessageSize(-1);
  // By default two processes could share one port.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              static_cast<int>(options.max_streams));
  // gRPC looks at a compressed message's length only when it has been made a thousand times longer.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMostMetadataBytes);
  builder->SetResourceQuota(
      grpc::ResourceQuota("rpc_server")
          .Resize(std::max(kMostBufferedBytes, 4 * options.max_message_bytes)));
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  // A client that vanished without a word is noticed within half a minute.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients may ask for a sign of life as often as they do (transport/grpc_client.cc), and more.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kMaxConnectionAgeMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kMaxConnectionAgeMs);
}

}  // namespace

absl::Status RpcServer::Options::Validate() const {
  RETURN_IF_ERROR(CheckPositive("max_message_bytes", max_message_bytes, kMostMessageBytes));
  return CheckPositive("max_streams", max_streams, kMostStreams);
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const Options& options, const std::vector<grpc::Service*>& services,
    const std::vector<std::string>& service_names, const Readiness& readiness) {
  RETURN_IF_ERROR(options.Validate());
  RETURN_IF_ERROR(ParseListenAddress("listen", options.listen).status());
  CheckThreadsAreLeft("gRPC", NumGrpcThreads());
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetConnectionArguments(options, &builder);
  const std::string address =
      options.listen.front() == ':' ? absl::StrCat("[::]", options.listen) : options.listen;
  int port = 0;
  builder.AddListeningPort(
      address, options.credentials ? options.credentials : grpc::InsecureServerCredentials(),
      &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) return CannotListen("listen", options.listen);
  return std::unique_ptr<RpcServer>(
      new RpcServer(std::move(server), port, service_names, readiness));
}

RpcServer::RpcServer(std::unique_ptr<grpc::Server> server, int port,
                     const std::vector<std::string>& service_names, const Readiness& readiness)
    : server_(std::move(server)),
      port_(port),
      service_names_(service_names),
      readiness_(readiness) {
  health_thread_ = StartThread("gRPC's health service", [this] { FollowReadiness(); });
  // Now, for at the end the system may have no thread left for it.
  shutdown_thread_ = StartThread("the end of the gRPC port", [this] { ShutDownWhenTold(); });
}

RpcServer::~RpcServer() {
  Shutdown(absl::ZeroDuration());
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  health_thread_.join();
  shutdown_thread_.join();
}

void RpcServer::FollowReadiness() {
  grpc::HealthCheckServiceInterface& health = *server_->GetHealthCheckService();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const bool serving = readiness_.Check().ok();
    health.SetServingStatus("", serving);
    for (const std::string& name : service_names_) health.SetServingStatus(name, serving);
    wake_.wait_for(lock, kHealthPeriod);
  }
}

void RpcServer::ShutDownWhenTold() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return shuts_down_; });
  lock.unlock();
  server_->Shutdown();  // returns when all calls have ended
  lock.lock();
  has_shut_down_ = true;
  wake_.notify_all();
}

void RpcServer::StartShutdown() {
  std::lock_guard lock(mutex_);
  shuts_down_ = true;
  wake_.notify_all();
}

void RpcServer::Shutdown(absl::Duration grace) {
  StartShutdown();
  const auto has_shut_down = [this] { return has_shut_down_; };
  std::unique_lock lock(mutex_);
  if (!wake_.wait_for(lock, absl::ToChronoNanoseconds(grace), has_shut_down)) {
    grpc_server_cancel_all_calls(server_->c_server());
  }
  wake_.wait(lock, has_shut_down);
}

}  // namespace kvship
