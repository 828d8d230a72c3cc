#include "transport/grpc_server.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/out_of_memory.h"
#include "transport/grpc_deadline.h"
#include "transport/grpc_outbox.h"
#include "transport/grpc_status.h"
#include "transport/prefill_wire.h"

namespace kvship {
namespace {

// As linger, after an error: only the message that is being written is left.
constexpr absl::Duration kErrorLinger = absl::Seconds(5);

class GrpcServerChannel final : public FrameChannel,
                                public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                                public std::enable_shared_from_this<GrpcServerChannel> {
 public:
  GrpcServerChannel(grpc::CallbackServerContext* context, const GrpcServerChannelOptions& options,
                    DeadlineWatch& deadlines)
      : context_(context),
        arrival_(MonotonicNow()),
        deadline_(FromGrpcDeadline(context->raw_deadline())),
        options_(options),
        deadlines_(deadlines) {}

  void Start(const AcceptChannel& accept) {
    self_ = shared_from_this();
    events_ = accept(self_);
    // Threads that gRPC hands the channel on to lock this first, and so see all that stands above.
    std::lock_guard lock(mutex_);
    first_message_ = After(options_.first_message_timeout, [](GrpcServerChannel& channel) {
      if (channel.first_message_came_) return;
      // No deadline of the request's, for which the client would give it up.
      channel.CloseLocked(absl::AbortedError(
          absl::StrCat("the stream's first message did not come within ",
                       absl::FormatDuration(channel.options_.first_message_timeout))));
    });
    StartRead(&incoming_);
  }

  void SendMessage(std::string message) override {
    const grpc::Slice slice(message);
    Send(grpc::ByteBuffer(&slice, 1));
  }

  void SendFrame(const FrameHeader& header, SharedBytes payload) override {
    Send(FrameMessage(header, std::move(payload)));
  }

  size_t unsent_bytes() const override {
    std::lock_guard lock(mutex_);
    return outbox_.num_bytes();
  }

  void Close(absl::Status status) override {
    std::lock_guard lock(mutex_);
    CloseLocked(std::move(status));
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // the client has said all it had to say, or is gone: OnCancel tells
    {
      std::lock_guard lock(mutex_);
      first_message_came_ = true;
    }
    // gRPC would drop the exception, and nothing would be read any more.
    const absl::Status taken = UnlessOutOfMemory([this] {
      const std::string message = FlatBytes(incoming_);
      Deliver(
          [&](FrameChannelEvents& events) { events.OnMessage(std::as_bytes(std::span(message))); });
      return absl::OkStatus();
    });
    if (!taken.ok()) Close(taken);
    std::lock_guard lock(mutex_);
    if (!finished_) StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      outbox_.EndWrite(ok);
      if (!ok) cancelled_ = true;
      if (cancelled_) outbox_.DropWaiting();
      Proceed();
    }
    Deliver([](FrameChannelEvents& events) { events.OnSent(); });
  }

  void OnCancel() override {
    absl::Status status;
    {
      std::lock_guard lock(mutex_);
      const bool expired = GoesByDeadline(arrival_, deadline_, MonotonicNow());
      status = expired ? absl::DeadlineExceededError("the call's deadline passed")
                       : absl::CancelledError("the peer has cancelled the call");
      cancelled_ = true;
      outbox_.DropWaiting();
      CloseLocked(status);
    }
    End(status);
  }

  void OnDone() override {
    absl::Status status;
    {
      std::lock_guard lock(mutex_);
      done_ = true;
      status = close_status_;
    }
    deadlines_.Remove(first_message_);
    deadlines_.Remove(linger_);
    End(status);
    const std::shared_ptr<GrpcServerChannel> last = std::move(self_);
  }

 private:
  void Send(const grpc::ByteBuffer& message) {
    std::lock_guard lock(mutex_);
    if (closed_ || cancelled_) return outbox_.Lose(message);
    outbox_.Push(message);
    Proceed();
  }

  void CloseLocked(absl::Status status) {
    if (closed_) return;
    closed_ = true;
    close_status_ = std::move(status);
    if (!close_status_.ok()) outbox_.DropWaiting();
    Proceed();
    if (!finished_) Linger();
  }

  // A peer that reads nothing must not hold what is left for ever.
  void Linger() {
    lingering_bytes_ = outbox_.num_bytes();
    const absl::Duration linger =
        close_status_.ok() ? options_.linger : std::min(options_.linger, kErrorLinger);
    linger_ = After(linger, [](GrpcServerChannel& channel) {
      if (channel.finished_) return;
      if (channel.outbox_.num_bytes() < channel.lingering_bytes_) return channel.Linger();
      channel.context_->TryCancel();
    });
  }

  // Writes what comes next, or ends the call when all is written.
  void Proceed() {
    if (finished_) return;
    if (const grpc::ByteBuffer* next = outbox_.Next()) {
      StartWrite(next);
    } else if (closed_ && outbox_.empty()) {
      finished_ = true;
      Finish(ToGrpcStatus(close_status_));
    }
  }

  // Runs `act` under the lock after `delay`, unless the call is done by then.
  DeadlineWatch::Key After(absl::Duration delay, void (*act)(GrpcServerChannel&)) {
    return deadlines_.Add(MonotonicNow() + delay, [weak = weak_from_this(), act] {
      const std::shared_ptr<GrpcServerChannel> self = weak.lock();
      if (self == nullptr) return;
      std::lock_guard lock(self->mutex_);
      if (!self->done_) act(*self);
    });
  }

  template <class Event>
  void Deliver(const Event& event) {
    std::lock_guard lock(events_mutex_);
    if (events_ != nullptr) event(*events_);
  }

  void End(const absl::Status& status) {
    std::lock_guard lock(events_mutex_);
    if (events_ == nullptr) return;
    events_->OnClosed(status);
    events_.reset();
  }

  grpc::CallbackServerContext* const context_;
  const absl::Time arrival_;  // monotonic, as the deadline
  const absl::Time deadline_;
  const GrpcServerChannelOptions options_;
  DeadlineWatch& deadlines_;
  grpc::ByteBuffer incoming_;

  mutable std::mutex mutex_;
  GrpcOutbox outbox_;
  absl::Status close_status_;
  bool first_message_came_ = false;
  bool closed_ = false;     // by Close or by the peer
  bool cancelled_ = false;  // nothing that is written arrives any more
  bool finished_ = false;   // gRPC has been given the status
  bool done_ = false;
  DeadlineWatch::Key first_message_;
  DeadlineWatch::Key linger_;
  size_t lingering_bytes_ = 0;  // unsent when it was set

  std::mutex events_mutex_;                     // events come one at a time
  std::shared_ptr<FrameChannelEvents> events_;  // shared: kept until OnClosed
  std::shared_ptr<GrpcServerChannel> self_;     // until gRPC is done with the reactor
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeChannel(
    grpc::CallbackServerContext* context, const GrpcServerChannelOptions& options,
    DeadlineWatch& deadlines, const AcceptChannel& accept) {
  auto channel = std::make_shared<GrpcServerChannel>(context, options, deadlines);
  channel->Start(accept);
  return channel.get();
}

}  // namespace kvship
