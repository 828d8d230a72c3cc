// PrefillConnection reaches one prefill node over gRPC: each Open is one Prefill call. It has a
// connection of its own, never retries by itself, and notices a dead peer by keepalive. Thread
// safe.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "transport/channel.h"

namespace kvship {

// Names and values that are sent ahead of a call's messages.
using CallMetadata = std::vector<std::pair<std::string, std::string>>;

class PrefillConnection {
 public:
  struct Options {
    // unset: plain text
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    // "host[:port]", what the server is called by and must have a certificate for; empty: the
    // target's.
    std::string server_name = {};
  };

  // The calls of one connection that have not ended.
  class OpenCalls;

  // `target` is a gRPC name: "127.0.0.1:50051", "dns:///prefill:50051". Connects when first used.
  PrefillConnection(const std::string& target, const Options& options);

  // Cancels the calls that have not ended and waits until they have. A call whose event destroys
  // the connection is not waited for; that may only happen in a process that has another channel
  // or server of the callback kind, for gRPC joins its threads with the last of them.
  ~PrefillConnection();

  // Opens one Prefill call. The channel's messages are serialized PrefillRequest (sent) and
  // PrefillResponse (received; frames come as frames). `events` is kept until OnClosed has
  // returned; the channel stays usable, and does nothing, after that. Until OnClosed the call lives
  // even if the returned pointer goes: Close ends it.
  std::shared_ptr<Channel> Open(absl::Time deadline, std::shared_ptr<ChannelEvents> events,
                                const CallMetadata& metadata = {});

  // For ordinary calls, such as GetModelInfo and health checks.
  const std::shared_ptr<grpc::Channel>& grpc_channel() const { return channel_; }

 private:
  const std::shared_ptr<OpenCalls> open_calls_;  // shared with the calls
  std::shared_ptr<grpc::Channel> channel_;
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub_;
};

}  // namespace kvship
