// RpcServer is a gRPC server with what every kvship program offers on its port: its services,
// gRPC's health service (which follows Readiness, per service), reflection, keepalive, and limits
// on messages and streams.
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>

#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/readiness.h"

namespace kvship {

class RpcServer {
 public:
  // gRPC stores its limits as int.
  static constexpr size_t kMostMessageBytes = std::numeric_limits<int>::max();
  static constexpr size_t kMostStreams = std::numeric_limits<int>::max();

  struct Options {
    std::string listen = "127.0.0.1:50051";
    // Longer requests are refused before they are read. At most kMostMessageBytes.
    size_t max_message_bytes = 4 << 20;
    // Concurrent streams per connection; more wait.
    size_t max_streams = 1024;
    // unset: plain text
    std::shared_ptr<grpc::ServerCredentials> credentials;

    // InvalidArgument naming the field.
    absl::Status Validate() const;
  };

  // Listens and serves. Borrows services and readiness. The health service answers for
  // `service_names` and "". Errors: as Options::Validate, InvalidArgument (no address), Unavailable
  // (port in use).
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const Options& options, const std::vector<grpc::Service*>& services,
      const std::vector<std::string>& service_names, const Readiness& readiness);

  // Cancels running calls at once.
  ~RpcServer();

  // Refuses new calls from now on, and tells clients to reconnect elsewhere. Running calls
  // continue.
  void StartShutdown();
  // StartShutdown; then gives running calls `grace` to end, and cancels the rest. Returns when all
  // have ended.
  void Shutdown(absl::Duration grace);

  int port() const { return port_; }

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, int port,
            const std::vector<std::string>& service_names, const Readiness& readiness);
  void FollowReadiness();
  void ShutDownWhenTold();

  std::unique_ptr<grpc::Server> server_;
  const int port_;
  const std::vector<std::string> service_names_;
  const Readiness& readiness_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  bool shuts_down_ = false;
  bool has_shut_down_ = false;
  std::thread health_thread_;
  std::thread shutdown_thread_;
};

}  // namespace kvship
