// The serving side of the Prefill stream over gRPC. Thread safe.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "base/deadline_watch.h"
#include "transport/channel.h"

namespace kvship {

// Called with each new channel; returns what its events go to.
using AcceptChannel = std::function<std::shared_ptr<FrameChannelEvents>(
    const std::shared_ptr<FrameChannel>& channel)>;

struct GrpcServerChannelOptions {
  // A stream whose first message has not come by then is ended, with Aborted.
  absl::Duration first_message_timeout = absl::Seconds(30);
  // When the channel is closed: how long a peer may take for each message that is left, after an
  // error at most 5 s. (What takes no status is found by keepalive.)
  absl::Duration linger = absl::Seconds(30);
};

// For a raw callback method: makes the channel of a new call. Messages received are handed on as
// they are; frames are sent as PrefillResponse. Borrows `deadlines` until the call is done.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeChannel(
    grpc::CallbackServerContext* context, const GrpcServerChannelOptions& options,
    DeadlineWatch& deadlines, const AcceptChannel& accept);

}  // namespace kvship
