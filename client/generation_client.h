// GenerationClient is a client of a decode server: one blocking call per request. Thread safe.
//
// Errors are the server's, with its details: FieldOf, RetryDelayOf and ReasonOf (rpc/errors.h) read
// them. Calls that find no server, or no room, are retried within their timeout, and only before
// any output. A timeout of InfiniteDuration means none. Texts must be UTF-8.
#pragma once

#include <grpcpp/security/credentials.h>

#include <atomic>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvship/v1/generation.grpc.pb.h"

namespace kvship {

// Checks that the token can be sent: printable ASCII characters; empty means none. InvalidArgument,
// naming `source` and never quoting the token, if not.
absl::Status CheckApiToken(absl::string_view source, absl::string_view token);

class GenerationClient {
 public:
  struct Options {
    size_t retries = 3;
    // Connections that stub() uses in turn. A server limits the calls per connection, and a load
    // balancer may route each connection to one of several servers.
    size_t connections = 1;
    // unset: plain text. rpc/tls.h makes them from files.
    std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr;
    // Sent with every call; in plain text, anyone on the network can read it. Empty: none. If
    // CheckApiToken rejects it, every call fails here.
    std::string api_token = {};
  };

  // `server` is a gRPC name, "127.0.0.1:50050" or "dns:///decode:50050". Connects on first use.
  explicit GenerationClient(const std::string& server);
  GenerationClient(const std::string& server, Options options);

  // Runs one request to its end. Calls `on_response` with progress and output as they arrive.
  // Requesting `stop`, from any thread or from `on_response`, ends the request and frees all it
  // holds on the servers. Errors: as the server's; Unavailable, naming the server, if it is
  // unreachable; Unimplemented, likewise, if it lacks the service; FailedPrecondition for a message
  // above its limit; DeadlineExceeded; Cancelled.
  absl::StatusOr<v1::GenerateReport> Generate(
      const v1::GenerateRequest& request, absl::Duration timeout,
      const std::function<void(const v1::GenerateResponse&)>& on_response,
      const std::stop_token& stop = {});

  absl::StatusOr<v1::ModelInfo> GetModelInfo(absl::Duration timeout);

  // For callers that run many concurrent calls: the stub; the settings of each call's context
  // (without a token that cannot be sent); and the final status of a call with that timeout.
  // `stopped`: this side has cancelled it.
  v1::GenerationService::Stub& stub() { return *stubs_[next_stub_++ % stubs_.size()]; }
  void SetContext(absl::Duration timeout, grpc::ClientContext* context) const;
  absl::Status EndOf(const grpc::Status& status, absl::Duration timeout, bool stopped) const;

 private:
  struct Limit {
    absl::Duration timeout;
    absl::Time deadline;  // monotonic
  };

  absl::StatusOr<v1::GenerateReport> GenerateOnce(
      const v1::GenerateRequest& request, const Limit& limit,
      const std::function<void(const v1::GenerateResponse&)>& on_response,
      const std::stop_token& stop);

  const std::string server_;
  const Options options_;
  const absl::Status token_status_;
  std::vector<std::unique_ptr<v1::GenerationService::Stub>> stubs_;  // one per connection
  std::atomic<size_t> next_stub_ = 0;
};

}  // namespace kvship
