// GenerationClient talks to a decode server: one blocking call per request. Thread safe.
//
// Errors are the server's, with its details: FieldOf, RetryDelayOf and ReasonOf (rpc/errors.h) read
// them. A call that finds no server, or no room, is made again inside its timeout, and only before
// any output. A timeout of InfiniteDuration is none. Texts must be UTF-8.
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

// InvalidArgument, naming `source` and never quoting the token, unless it can be sent: printable
// ASCII characters. Empty is none.
absl::Status CheckApiToken(absl::string_view source, absl::string_view token);

class GenerationClient {
 public:
  struct Options {
    size_t retries = 3;
    // That calls of stub() take in turn. A server takes so many calls at a time over one, and what
    // stands before several servers may give each connection one of them.
    size_t connections = 1;
    // unset: plain text. rpc/tls.h makes them of files.
    std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr;
    // Sent with every call; in plain text, whoever sees the call sees it. Empty: none. As
    // CheckApiToken wants it: with another one every call is refused here.
    std::string api_token = {};
  };

  // `server` is a gRPC name, "127.0.0.1:50050" or "dns:///decode:50050". Connects when first used.
  explicit GenerationClient(const std::string& server);
  GenerationClient(const std::string& server, Options options);

  // Runs one request to its end. `on_response` sees progress and output as they come. A stop that
  // is requested, from any thread or from `on_response`, ends the request and frees all it holds on
  // the servers. Errors: as the server's; Unavailable, naming the server, if it cannot be reached;
  // Unimplemented, likewise, if it has no such service; FailedPrecondition for a message larger
  // than it takes; DeadlineExceeded; Cancelled.
  absl::StatusOr<v1::GenerateReport> Generate(
      const v1::GenerateRequest& request, absl::Duration timeout,
      const std::function<void(const v1::GenerateResponse&)>& on_response,
      const std::stop_token& stop = {});

  absl::StatusOr<v1::ModelInfo> GetModelInfo(absl::Duration timeout);

  // For who runs many calls at a time: the stub, what each call's context needs (a token that
  // cannot be sent is left out), and what the end of a call with that timeout comes to; `stopped`:
  // whether this side has cancelled it.
  v1::GenerationService::Stub& stub() { return *stubs_[next_stub_++ % stubs_.size()]; }
  void SetContext(absl::Duration timeout, grpc::ClientContext* context) const;
  absl::Status EndOf(const grpc::Status& status, absl::Duration timeout, bool stopped) const;

 private:
  struct Limit {
    absl::Duration timeout;
    absl::Time deadline;  // of the monotonic clock
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
